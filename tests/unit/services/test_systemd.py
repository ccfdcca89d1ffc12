"""The unit for systemd: written for the program that is installed, and judged by systemd's own check."""

import shutil
import subprocess
from pathlib import Path

import pytest

from kvm_backup.domain.errors import ServiceManagerError, TargetExistsError
from kvm_backup.services.systemd import UNIT, install_service, unit_text

PROGRAM = Path("/bin/true")


def test_where_systemd_does_not_run_nothing_is_written_and_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(ServiceManagerError, match="does not run"):
        install_service(PROGRAM, booted=tmp_path / "missing")


def test_below_a_root_it_is_written_once_and_left_alone_after(tmp_path: Path) -> None:
    first = install_service(PROGRAM, root=tmp_path)
    assert first.path == tmp_path / "etc/systemd/system" / UNIT
    assert (first.written, first.reloaded, first.enabled) == (True, False, False)
    assert "ExecStart=/bin/true serve\n" in first.path.read_text()
    assert not install_service(PROGRAM, root=tmp_path).written
    again = install_service(Path("/usr/bin/true"), root=tmp_path)
    assert (first.replaced, again.written, again.replaced) == (False, True, True)


def test_a_unit_of_somebody_else_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "etc/systemd/system" / UNIT
    path.parent.mkdir(parents=True)
    path.write_text("[Service]\nExecStart=/usr/local/bin/mine\n")
    with pytest.raises(TargetExistsError):
        install_service(PROGRAM, root=tmp_path)
    assert "mine" in path.read_text()


def test_a_path_with_spaces_or_percents_is_quoted() -> None:
    assert 'ExecStart="/opt/a b/100%%/$$x/kvm-backup" serve' in unit_text(Path("/opt/a b/100%/$x/kvm-backup"))
    with pytest.raises(ServiceManagerError):
        unit_text(Path("/opt/a\nb/kvm-backup"))


def test_guards_survive_and_the_service_tells_systemd_how_it_does() -> None:
    lines = unit_text(PROGRAM).splitlines()
    assert {"Type=notify", "KillMode=process", "Restart=on-failure"} <= set(lines)
    assert any(line.startswith("WatchdogSec=") for line in lines)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_no_fault_in_it(tmp_path: Path) -> None:
    path = install_service(PROGRAM, root=tmp_path).path
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    own = [line for line in done.stderr.splitlines() if UNIT in line]
    assert (done.returncode, own) == (0, [])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_counts_it_among_the_confined_ones(tmp_path: Path) -> None:
    path = install_service(PROGRAM, root=tmp_path).path
    words = ["systemd-analyze", "security", "--offline=true", "--threshold=50", "--no-pager", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:]


@pytest.mark.skipif(shutil.which("systemctl") is None, reason="systemd is not installed")
def test_below_a_root_it_can_be_enabled_for_the_next_boot(tmp_path: Path) -> None:
    assert install_service(PROGRAM, root=tmp_path, enable=True).enabled
    assert (tmp_path / "etc/systemd/system/multi-user.target.wants" / UNIT).is_symlink()
