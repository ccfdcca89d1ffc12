"""Everything that talks to libvirt and QEMU: no other package imports libvirt."""
