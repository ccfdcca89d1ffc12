"""Who may look at a VM sees its XML, and not the passwords in it."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from kvm_backup.bootstrap import Application
from kvm_backup.config.settings import check
from kvm_backup.domain.account import Role
from kvm_backup.domain.inventory import VmRecord
from kvm_backup.domain.vm import VmState
from kvm_backup.web.app import make_app
from tests.unit.web.dashboard import PASSWORD

UUID = "5b0c9a52-6f0e-4b5e-9a43-2f6d3e1c7a10"
PASSWORD_OF_SCREEN = "geheim77"
HOST = f"""<node><domain type='test'><name>web &lt;b&gt;</name><uuid>{UUID}</uuid><memory>1024</memory>
<os><type>hvm</type></os><devices><graphics type='vnc' port='-1' passwd='{PASSWORD_OF_SCREEN}'/></devices>
</domain></node>"""


@pytest.fixture
def application(tmp_path: Path) -> Application:
    """On a host with one VM, whose screen has a password."""
    (tmp_path / "host.xml").write_text(HOST)
    settings = {"state_dir": str(tmp_path / "state"), "libvirt": {"uri": f"test://{tmp_path}/host.xml"}}
    made = Application(check(settings, None))
    made.inventory.save([VmRecord(UUID, "web <b>", VmState.RUNNING)], [])
    return made


def test_no_page_and_no_answer_shows_a_password_of_the_xml(application: Application) -> None:
    assert PASSWORD_OF_SCREEN in application.hypervisor.xml(UUID)
    owner = application.accounts.add("anne", Role.ADMINISTRATOR, PASSWORD)
    token = application.api_tokens.add(owner, "test", Role.ADMINISTRATOR, 1)[1]
    client = TestClient(
        make_app(application), base_url="http://localhost", headers={"Authorization": f"Bearer {token}"}
    )
    page, answer = client.get(f"/vms/{UUID}/xml"), client.get(f"/api/v1/vms/{UUID}/xml")
    assert (page.status_code, answer.status_code) == (200, 200)
    assert "&lt;graphics" in page.text
    assert "<graphics" in answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    assert PASSWORD_OF_SCREEN not in page.text + answer.text
