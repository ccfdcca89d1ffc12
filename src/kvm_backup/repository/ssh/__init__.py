"""Repositories on another server, reached with OpenSSH and rsync (docs/adr/0010-shipping-over-ssh.md)."""
