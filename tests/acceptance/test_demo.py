"""The demo is the promise to a new user: it runs to its end, and what it shows is true."""

import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.vm


def test_the_demo_restores_the_middle_point_of_a_vm_that_wrote_meanwhile() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lab.demo"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=os.environ | {"COLUMNS": "80", "PYTHONPATH": "."},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    modes = re.findall(r"(full|incremental) point lab-demo--", done.stdout)
    assert modes == ["full", "incremental", "incremental"]
    assert "restored as VM lab-demo-restored" in done.stdout
    letters = dict(re.findall(r'letter.txt in (lab-demo(?:-restored)?) +says "(\w+):', done.stdout))
    assert letters == {"lab-demo": "third", "lab-demo-restored": "second"}
