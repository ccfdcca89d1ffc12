"""The documentation of the API: the OpenAPI document, and a page made of it that needs no JavaScript."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.responses import JSONResponse, Response

from kvm_backup import __version__
from kvm_backup.web.api.v1 import access, alerts, host, models, points, repositories, runs, schedules, vms
from kvm_backup.web.context import render
from kvm_backup.web.security.access import Viewer

DOCUMENT = "/api/v1/openapi.json"
ROUTERS = (
    host.router,
    vms.router,
    schedules.router,
    runs.router,
    points.router,
    repositories.router,
    alerts.router,
    access.router,
)
_METHODS = ("get", "post", "patch", "put", "delete")
_ABOUT = """Everything that the pages of KVM Backup show and do.

Sign in by an API token (`Authorization: Bearer kvmb_…`, made under "My account" or by `kvm-backup token add`), or
by the session of a browser, whose changes need the header `X-CSRF-Token`. A viewer may read, an operator may do the
rest; what needs an administrator says so. Problems are RFC 9457 documents with a stable `code`.
"""

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Operation:
    """One request of the API as the page shows it. `example` is a command line."""

    method: str
    path: str
    summary: str
    text: str
    parameters: list[dict[str, Any]]
    body: str
    answers: list[tuple[str, str]]
    example: str


def mount(app: FastAPI) -> None:
    """Serve version 1, and let `app.openapi()` tell of it alone."""
    for one in ROUTERS:
        app.include_router(one, prefix="/api/v1")

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    app.include_router(router)


@router.get(DOCUMENT)
def document(request: Request, user: Viewer) -> Response:  # noqa: ARG001 - who may look
    """The OpenAPI document."""
    return JSONResponse(request.app.openapi())


@router.get("/api/docs")
def page(request: Request, user: Viewer) -> Response:  # noqa: ARG001
    """The documentation for people."""
    schema = request.app.openapi()
    groups: dict[str, list[Operation]] = {}
    for tag, operation in _operations(schema, str(request.base_url).rstrip("/")):
        groups.setdefault(tag, []).append(operation)
    shown = {
        name: [(key, _type(value), value.get("description", "")) for key, value in one.get("properties", {}).items()]
        for name, one in sorted(schema["components"]["schemas"].items())
    }
    about = {name: one.get("description", "") for name, one in schema["components"]["schemas"].items()}
    return render(
        request, "api/docs.html", groups=groups, models=shown, model_texts=about, document=DOCUMENT, about=_ABOUT
    )


def _document(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(title="KVM Backup", version=__version__, description=_ABOUT, routes=app.routes)
    components = made.setdefault("components", {})
    components.setdefault("schemas", {})["Problem"] = models.Problem.model_json_schema()
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    made["security"] = [{"token": []}]
    for path in made["paths"].values():
        for operation in path.values():
            # FastAPI's own description of a refused request is not what we send.
            described = operation["responses"].get("422", {}).get("content", {})
            described.pop("application/json", None)
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    return made


def _operations(schema: dict[str, Any], base: str) -> Iterator[tuple[str, Operation]]:
    for path, operations in schema["paths"].items():
        for method in _METHODS:
            held = operations.get(method)
            if held is None:
                continue
            summary, _separator, text = held.get("description", "").partition("\n\n")
            body = held.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            yield (
                held["tags"][0],
                Operation(
                    method=method.upper(),
                    path=path,
                    summary=summary,
                    text=text,
                    parameters=[_parameter(one) for one in held.get("parameters", [])],
                    body=_name(body),
                    answers=[(status, _answer(one)) for status, one in sorted(held["responses"].items())],
                    example=_example(method, base + path, bool(body)),
                ),
            )


def _parameter(held: dict[str, Any]) -> dict[str, Any]:
    schema = held["schema"]
    default = schema.get("default")
    return {
        "name": held["name"],
        "place": held["in"],
        "type": _type(schema),
        "required": held.get("required", False),
        "default": "" if default is None else str(default).lower() if isinstance(default, bool) else str(default),
    }


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return _name(schema)
    if "anyOf" in schema:
        return " | ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(str(one) for one in schema["enum"])
    if schema.get("type") == "array":
        return f"{_type(schema.get('items', {}))}[]"
    return str(schema.get("format") or schema.get("const") or schema.get("type") or "any")


def _name(schema: dict[str, Any]) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _answer(held: dict[str, Any]) -> str:
    for kind, content in held.get("content", {}).items():
        return _name(content.get("schema", {})) or str(kind)
    return str(held.get("description", ""))


def _example(method: str, url: str, has_body: bool) -> str:
    verb = "" if method == "get" else f" -X {method.upper()}"
    body = " -H 'Content-Type: application/json' -d '{…}'" if has_body else ""
    return f"curl{verb} -H 'Authorization: Bearer kvmb_…'{body} '{url}'"
