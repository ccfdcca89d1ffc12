"""The key of age that tests encrypt for."""

from kvm_backup.repository.encryption.keys import Identities

KEY = Identities.new()
"""Of the remote of the fixture `sealed`."""
