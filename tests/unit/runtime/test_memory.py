"""How many heaps a process of many threads has."""

import subprocess
import sys

PROGRAM = """
import ctypes, sys, threading
from kvm_backup.runtime.memory import share_memory_among_threads

if sys.argv[1] == "shared":
    share_memory_among_threads()
together = threading.Barrier(6)
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p


def allocate():
    together.wait()
    libc.malloc(100)  # a thread's first one gives it a heap
    together.wait()


threads = [threading.Thread(target=allocate) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.malloc_stats()
"""


def heaps(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True)
    return done.stderr.count("Arena ")


def test_many_threads_share_two_heaps() -> None:
    assert heaps("shared") == 2
    assert heaps("as it is") > 2


FREED = """
from pathlib import Path
from kvm_backup.runtime.memory import give_back_memory


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])


held = [bytes(1000) for _ in range(100_000)]
last = bytes(1000)
full = resident()
del held
give_back_memory()
print(full - resident())
"""


def test_what_was_freed_below_what_is_in_use_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], check=True, capture_output=True, text=True)
    assert int(done.stdout) * 4096 > 50_000_000
