"""The lab's fixtures, here too."""

from tests.integration.conftest import guest, lab, module_lab, restart_libvirtd

__all__ = ["guest", "lab", "module_lab", "restart_libvirtd"]
