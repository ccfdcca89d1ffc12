"""What can go wrong in the lab."""


class LabError(Exception):
    """A part of the lab did not do what it was asked; the message says which and why."""


class GuestCommandError(LabError):
    """A command in the guest ended with a status other than 0."""

    def __init__(self, command: str, status: int, stdout: str, stderr: str) -> None:
        said = stderr.strip() or stdout.strip() or "it said nothing"
        super().__init__(f"in the guest, {command!r} ended with status {status}: {said}")
        self.status = status
        self.stdout = stdout
        self.stderr = stderr


class ImagesDifferError(LabError):
    """Two disk images do not hold the same data; `offset` is in bytes where qemu-img tells it."""

    def __init__(self, message: str, offset: int | None) -> None:
        super().__init__(message)
        self.offset = offset
