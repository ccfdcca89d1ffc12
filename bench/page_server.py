"""The dashboard under test: a process of its own, and somebody who is signed in."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote
from uuid import uuid4

import httpx

from kvm_backup.bootstrap import Application
from kvm_backup.database.inventory import VmFilter
from kvm_backup.domain.account import Role
from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.protection import Protection
from kvm_backup.domain.request import RunRequest
from kvm_backup.domain.run import Trigger
from kvm_backup.domain.task import Task

BASE = Path(__file__).parents[1] / ".cache" / "bench"
_COMMAND = Path(sys.prefix) / "bin" / "kvm-backup"
_PASSWORD = "nobody but the benchmark knows this"
_ADDRESS = re.compile(r"dashboard: (https?://\S+)")
_CSRF = re.compile(r'name="csrf" value="([^"]+)"')
_POLL_SECONDS = 0.5
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class PageServer:
    """`kvm-backup serve` on a free port, ended with the block."""

    def __init__(self, state_dir: Path) -> None:
        os.environ["KVM_BACKUP_CONFIG"] = str(state_dir / "kvm-backup.toml")
        self.application = Application.from_environment()
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        began = self.application.inventory.host_facts().examined
        self._process = subprocess.Popen(
            [_COMMAND, "serve"],
            env=os.environ | {"KVM_BACKUP_WEB__PORT": "0", "KVM_BACKUP_LANG": "en"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if found := _ADDRESS.search(line):
                self.url = found[1]
            # It says this when it has begun; nothing that it says later is read, and a pipe holds 64 KiB.
            if "serving" in line:
                self._wait_for_the_first_look(began)
                return self
        raise SystemExit("the server did not start")

    def _wait_for_the_first_look(self, began: datetime | None) -> None:
        """The service looks at everything when it begins, which takes a while with thousands of VMs."""
        while self.application.inventory.host_facts().examined == began:
            time.sleep(_POLL_SECONDS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate(timeout=60)

    @property
    def uri(self) -> str:
        """Of libvirt."""
        return self.application.settings.libvirt.uri

    @cached_property
    def cookies(self) -> httpx.Cookies:
        """Of a browser in which an administrator has signed in."""
        with suppress(KvmBackupError):
            self.application.accounts.add("bench", Role.ADMINISTRATOR, _PASSWORD)
        with httpx.Client(base_url=self.url, timeout=60) as visitor:
            form = _CSRF.search(visitor.get("/login").text)
            assert form is not None
            answer = visitor.post("/login", data={"csrf": form[1], "name": "bench", "password": _PASSWORD})
            assert answer.status_code == 303, answer.text
            return visitor.cookies

    def ask(self, vm_name: str, vm_uuid: str, task: Task, trigger: Trigger, repository: str = "default") -> str:
        """A queued run in the history, which only looks as if somebody had asked for it; its id."""
        asked = RunRequest(
            run_id=uuid4().hex,
            host=self.application.host,
            vm=vm_name,
            vm_uuid=vm_uuid,
            task=task,
            repository=repository,
            trigger=trigger,
            created=datetime.now(UTC),
        )
        return self.application.history.create(asked.as_run()).id

    def signed_in(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, cookies=self.cookies, timeout=60)

    def addresses(self) -> list[tuple[str, str]]:
        """What is measured: a name, and a path with what the folder holds."""
        well = VmFilter(protection=Protection.PROTECTED)
        vm = next(vm for vm in self.application.inventory.page(well, limit=50) if vm.points.last_point)
        run, schedule = vm.runs.last_run or "", vm.schedule_ids[0]
        folder, _, stamp = (vm.points.last_point or "/").partition("/")
        point = f"/points/{quote(vm.points.last_point_repository or '', safe='')}/{quote(folder)}/{stamp}"
        own, name = f"/vms/{vm.uuid}", quote(vm.name)
        return [
            ("overview", "/"),
            ("schedules", "/schedules"),
            ("schedules, page 20", "/schedules?page=20"),
            ("schedules, search", "/schedules?search=0042"),
            ("schedule", f"/schedules/{schedule}"),
            ("new schedule", "/schedules/new"),
            ("vms", "/vms"),
            ("vms, page 180", "/vms?page=180"),
            ("vms, search", f"/vms?search={name[:4]}"),
            ("vms, overdue", "/vms?protection=overdue"),
            ("vms, by size", "/vms?sort=stored&descending=1"),
            ("vm", own),
            ("point", point),
            ("restore form", f"{point}/restore"),
            ("runs", "/runs"),
            ("runs, failed", "/runs?state=failed"),
            ("runs of a vm", f"/runs?vm={name}"),
            ("runs of a schedule", f"/runs?schedule={schedule}"),
            ("run", f"/runs/{run}"),
            ("repositories", "/repositories"),
            ("repositories, page 4", "/repositories?page=4"),
            ("repositories, search", f"/repositories?q={name[:4]}&remote=nas"),
            ("alerts", "/alerts"),
            ("alerts, past", "/alerts?past=1"),
            ("account", "/account"),
            ("users", "/administration/users"),
            ("audit", "/administration/audit"),
            ("api overview", "/api/v1/overview"),
            ("api vms", "/api/v1/vms"),
            ("api vm", f"/api/v1{own}"),
            ("api runs", "/api/v1/runs"),
            ("api schedules", "/api/v1/schedules"),
            ("api repositories", "/api/v1/repositories"),
            ("api alerts", "/api/v1/alerts"),
            ("healthz", "/healthz"),
            ("metrics", "/metrics"),
        ]

    def memory(self) -> int:
        """Bytes that are resident."""
        return _resident(self._pid)

    def processor_seconds(self) -> float:
        """That it has used so far."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def _pid(self) -> int:
        assert self._process is not None
        return self._process.pid


def libvirt_memory(uri: str) -> int:
    """Bytes that the VMs of libvirt's test driver take in a process."""
    program = (
        "import libvirt, sys; from pathlib import Path;"
        "resident = lambda: int(Path('/proc/self/statm').read_text().split()[1]);"
        "before = resident(); held = libvirt.open(sys.argv[1]); print(resident() - before)"
    )
    told = subprocess.run([sys.executable, "-c", program, uri], check=True, capture_output=True, text=True)
    return int(told.stdout) * _PAGE


def percentile(ordered: Sequence[float], share: float) -> float:
    """Of values in ascending order: one that this share of them does not exceed."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
