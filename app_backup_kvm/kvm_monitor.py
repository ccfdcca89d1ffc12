#!/usr/bin/env python3
"""Runs the service and its dashboard with the machine's plain python3: the same as `kvm-backup serve`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from schedule_manager import main

if __name__ == "__main__":
    main("kvm_backup.cli.main", "serve")
