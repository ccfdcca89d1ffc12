"""A disk of a restore point, sent as a file."""

from urllib.parse import quote

from starlette.responses import StreamingResponse

from kvm_backup.services.download import DiskDownload


def disk_response(disk: DiskDownload) -> StreamingResponse:
    """The file under its own name, which may hold any letter; it is closed when the sending ends."""
    headers = {
        "Content-Length": str(disk.size),
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(disk.name, safe='')}",
    }
    return StreamingResponse(disk.chunks(), media_type="application/octet-stream", headers=headers)
