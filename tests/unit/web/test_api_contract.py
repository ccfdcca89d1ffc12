"""The API against its own OpenAPI document: whatever fits it, or does not, gets an answer that it describes."""

from datetime import UTC, datetime
from typing import Any

import pytest
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings
from schemathesis import Case
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from kvm_backup.domain.account import Role
from kvm_backup.domain.point import Mode
from kvm_backup.domain.run import Run, RunKind, RunState, Trigger
from kvm_backup.services.schedules.commands import NewSchedule
from kvm_backup.web.api.docs import ROUTERS
from tests.unit.web.dashboard import Dashboard

load_all_checks()
_DOCUMENT = "/api/v1/openapi.json"
_EXAMPLES = 12


def _token(dashboard: Dashboard, role: Role) -> str:
    application = dashboard.application
    if role.value not in {account.name for account in application.accounts.all()}:
        application.accounts.add(role.value, role, "a long sentence of nobody")
    owner = application.accounts.find(role.value)
    return application.api_tokens.add(owner, "contract", role, 1)[1]


@pytest.fixture(scope="session")
def operators_token(dashboard: Dashboard) -> str:
    return _token(dashboard, Role.OPERATOR)


@pytest.fixture(scope="session")
def documented(dashboard: Dashboard, operators_token: str) -> Any:
    """The document as the server tells it, with something to find behind it."""
    application = dashboard.application
    application.schedules.add(NewSchedule("nightly", ["web"], "daily", "02:00", "incremental"))
    application.history.create(
        Run(
            id="1" * 32,
            vm_name="web",
            kind=RunKind.BACKUP,
            trigger=Trigger.COMMAND,
            host=application.host,
            repository="default",
            requested_mode=Mode.FULL,
            state=RunState.QUEUED,
            created=datetime(2026, 11, 22, tzinfo=UTC),
        )
    )
    return schemathesis.openapi.from_url(
        dashboard.url + _DOCUMENT, headers={"Authorization": f"Bearer {operators_token}"}
    )


def _operations() -> list[tuple[str, str]]:
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    return [(f"/api/v1{route.path}", method) for route in routes for method in sorted(route.methods or ())]


@pytest.mark.parametrize(("path", "method"), _operations())
def test_every_answer_is_one_that_the_document_describes(
    path: str, method: str, documented: Any, operators_token: str
) -> None:
    @given(case=documented[path][method].as_strategy())
    @settings(max_examples=_EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def answered(case: "Case[Any]") -> None:
        answer = case.call(headers={"Authorization": f"Bearer {operators_token}"})
        # Times and names follow rules of their own, which no JSON schema tells: they are refused with a problem.
        # libvirt is not there, and 503 says so.
        case.validate_response(answer, excluded_checks=[positive_data_acceptance, not_a_server_error])
        assert answer.status_code < 500 or answer.status_code == 503, answer.text

    answered()


def test_the_document_tells_of_every_operation_and_of_nothing_else(documented: Any) -> None:
    told = {(path, method.upper()) for path, held in documented.raw_schema["paths"].items() for method in held}
    assert told == set(_operations())


def test_a_token_of_a_viewer_reads_and_changes_nothing(dashboard: Dashboard) -> None:
    headers = {"Authorization": f"Bearer {_token(dashboard, Role.VIEWER)}"}
    with dashboard.client(headers=headers) as client:
        before = client.get("/api/v1/schedules").json()
        for path, method in _operations():
            if method != "GET":
                answer = client.request(method, path.replace("{", "").replace("}", ""), json={})
                assert answer.status_code == 403, (method, path, answer.text)
                assert answer.headers["content-type"] == "application/problem+json"
        assert client.get("/api/v1/schedules").json() == before


def test_nothing_is_told_without_a_token(dashboard: Dashboard) -> None:
    with dashboard.client() as client:
        for path, method in _operations():
            answer = client.request(method, path.replace("{", "").replace("}", ""))
            assert answer.status_code in (401, 403), (method, path, answer.text)
            assert answer.json()["code"] in ("not-signed-in", "forged-request", "forbidden")
