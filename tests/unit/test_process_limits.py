"""How much of a host a process takes."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os, ctypes
from pydump.process import be_nice, IOPRIO_SET
be_nice()
number = {251: 252, 289: 290, 30: 31, 314: 315, 273: 274, 282: 283}[IOPRIO_SET[os.uname().machine]]
print(os.nice(0), ctypes.CDLL(None).syscall(number, 1, 0) >> 13)
"""


def test_a_nice_process_takes_what_nobody_else_wants() -> None:
    """Source: ioprio_get(2); its number is that of ioprio_set and one."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["19", "3"]
