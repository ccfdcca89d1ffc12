"""The files below `static`, under addresses that change with their content, so that browsers may keep them."""

import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import Response

FOLDER = Path(__file__).parent / "static"
_FOR_EVER = "public, max-age=31536000, immutable"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"}

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Assets:
    """Every file in memory by its path, and one digest of them all: modules that import each other stay together."""

    files: dict[str, bytes]
    version: str

    @classmethod
    def load(cls, folder: Path = FOLDER) -> "Assets":
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        digest = hashlib.sha256()
        for name, content in files.items():
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        return cls(files, digest.hexdigest()[:16])

    def url(self, name: str) -> str:
        """Where a file is served. Raises KeyError when there is none."""
        self.files[name]
        return f"/static/{self.version}/{name}"


@router.get("/static/{version}/{name:path}")
def static_file(request: Request, version: str, name: str) -> Response:
    """One file; a page from before an upgrade gets the new one, and does not keep it."""
    assets: Assets = request.app.state.assets
    content = assets.files.get(name)
    if content is None:
        raise HTTPException(404)
    kind = _TYPES.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    keep = _FOR_EVER if version == assets.version else "no-cache"
    return Response(content, media_type=kind, headers={"Cache-Control": keep})


@router.get("/favicon.ico")
def favicon(request: Request) -> Response:
    """For browsers that ask without reading the page."""
    return static_file(request, "", "icon.svg")
