"""The settings change while the service runs: it takes what it can, and says what it cannot."""

import os
from pathlib import Path

from kvm_backup.bootstrap import Application
from kvm_backup.config.settings import check
from kvm_backup.domain.alert import AlertKind
from tests.acceptance.service import Service, until
from tests.integration.product import Product, Running

USB = '[[repository]]\nname = "usb"\npath = "{path}"\n'


def said(running: Running) -> str:
    """What it has printed on standard error so far; its own place in that file stays."""
    return os.pread(running.stderr.fileno(), 1 << 20, 0).decode()


def test_the_service_takes_a_new_repository_and_survives_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    product = Product(tmp_path / "state", variables={"KVM_BACKUP_LIBVIRT__URI": "test:///default"})
    seen = Application(check({"state_dir": str(product.state)}, None))

    def alerts() -> list[AlertKind]:
        return [alert.kind for alert in seen.alerts.open()]

    with Service(product).start() as running:
        product.run("repository", "init", tmp_path / "usb").succeeded()
        until(lambda: "settings: read anew; changed: repository\n" in said(running), "take the repository")
        product.configure(USB.format(path=tmp_path / "usb") + "[web]\nport = 1\n")
        until(lambda: "after a restart also: web\n" in said(running), "tell what waits")
        product.configure("[retention]\nlast = 0\n")
        until(lambda: AlertKind.SETTINGS_FILE_UNUSABLE in alerts(), "alert")
        assert said(running).count("'retention.last'") == 1
        product.configure("[retention]\nlast = 3\n")
        until(lambda: "changed: repository, retention" in said(running), "take the file again")
        until(lambda: AlertKind.SETTINGS_FILE_UNUSABLE not in alerts(), "resolve the alert")
        assert running.process.poll() is None
