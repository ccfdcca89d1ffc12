"""Two services never go by one name on a PostgreSQL server; on SQLite the state folder keeps them apart."""

from collections.abc import Iterator

import pytest

from kvm_backup.database.engine import Database
from kvm_backup.database.name_claim import NameClaim
from kvm_backup.domain.errors import DatabaseError, ServiceRunningError
from tests.postgresql import Server, running_server


@pytest.fixture
def server() -> Iterator[Server]:
    """One that the test may stop."""
    with running_server() as made:
        yield made


def test_a_name_is_free_for_others_only_when_its_service_has_ended(server: Server) -> None:
    url = server.new_database()
    first, second, other = (NameClaim(Database.open(url), host) for host in ("alpha", "alpha", "beta"))
    with first.held():
        with pytest.raises(ServiceRunningError, match="a host called alpha"), second.held():
            pass
        with other.held():
            first.renew()
    with second.held():
        second.renew()
        with pytest.raises(ServiceRunningError):
            first.renew()


def test_the_name_is_taken_again_when_the_server_is_back(server: Server) -> None:
    url = server.new_database()
    first, second = (NameClaim(Database.open(url), "alpha") for _ in range(2))
    with first.held():
        server.stop()
        with pytest.raises(DatabaseError):
            first.renew()
        server.start()
        first.renew()
        with pytest.raises(ServiceRunningError), second.held():
            pass
