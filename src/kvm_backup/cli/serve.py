"""kvm-backup serve"""

from contextlib import AbstractContextManager

from kvm_backup.cli.context import application
from kvm_backup.cli.daemon import run_service, say


def serve() -> None:
    """Run the service and its dashboard, until the process is told to end.

    It stays in the foreground and says on standard error what it does, first of all where the dashboard is. The
    settings below [web] say where it listens; SIGTERM and Ctrl-C end it in order, as they end 'daemon'.
    """
    run_service(_dashboard)


def _dashboard() -> AbstractContextManager[None]:
    # Imported here: no other command needs what a web server is made of.
    from kvm_backup.web.server import serving

    return serving(application(), say)
