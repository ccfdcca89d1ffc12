"""The data path. Knows no libvirt: NBD source, compressed clusters, qcow2 files."""
