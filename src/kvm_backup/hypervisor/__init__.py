"""Everything that talks to libvirt and QEMU."""
