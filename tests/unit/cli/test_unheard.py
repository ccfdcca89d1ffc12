"""Nobody listens any more: a run that protects a VM goes on all the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import sys
from pathlib import Path
from kvm_backup.cli.output import ensure_streams
from kvm_backup.cli.progress import EventView
from kvm_backup.services.events import Notice, Started
ensure_streams()
with EventView(json_lines=sys.argv[1] == "json") as view:
    for number in range(20000):
        view(Started("web", "full", "default"))
    view(Notice("web", "note"))
    view.print("done")
Path(sys.argv[2]).write_text("reached the end")
"""


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("output", ["/dev/full", "a reader that goes away", "closed"])
def test_a_run_goes_on_when_its_output_cannot_be_written(form: str, output: str, tmp_path: Path) -> None:
    end = tmp_path / "end"
    words = [sys.executable, "-c", RUN, form, str(end)]
    redirected = {
        "/dev/full": '"$@" >/dev/full 2>&1',
        "a reader that goes away": '"$@" 2>&1 | head -c 1',
        "closed": '"$@" >&- 2>&-',
    }[output]
    done = subprocess.run(["bash", "-c", redirected, "bash", *words], capture_output=True, check=False, timeout=60)
    assert end.exists(), done
    assert done.returncode == 0


@pytest.mark.parametrize("words", [["schedule", "list"], ["schedule", "list", "--json"], ["--help"]])
def test_a_disk_that_is_full_where_the_output_goes_is_told_as_what_it_is(words: list[str], tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "kvm_backup.cli.main", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "KVM_BACKUP_STATE_DIR": str(tmp_path)},
        )
    first, second, *more = done.stderr.splitlines()
    assert (done.returncode, more) == (1, [])
    assert first == "error: the output cannot be written: No space left on device"
    assert second.startswith("HINT: ")
