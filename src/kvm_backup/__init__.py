"""KVM Backup: backups of libvirt virtual machines as plain qcow2 chains."""

__version__ = "0.1.0"
