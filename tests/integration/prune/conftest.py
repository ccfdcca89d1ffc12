"""The product of one module, as the tests of backups have it."""

from tests.integration.backup.conftest import product, witness

__all__ = ["product", "witness"]
