"""Files of points encrypted with age before they leave the host, and read back (docs/encryption.md)."""
