"""Signals that end a command, wherever they come."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Sends itself a signal within the callback of a weak reference, where Python drops exceptions, and waits.
SCRIPT = """
import os, signal, sys, time, weakref
from pydump.cli import ending
from pydump_source_qemu.pause_limit import PauseLimit

class Object:
    pass

def handle():
    os.kill(os.getpid(), number)
    for _ in range(100):
        pass

def work():
    ending.handle_signals()
    if number == signal.SIGALRM:
        limit = PauseLimit(3600)
        limit.start()
    thing = Object()
    reference = weakref.ref(thing, lambda _: handle())
    del thing
    end = time.monotonic() + 30
    while time.monotonic() < end:
        time.sleep(0.01)
    return 0

number = getattr(signal, sys.argv[1])
sys.exit(ending.exit_code_of(work))
"""


@pytest.mark.parametrize(
    ("name", "says"), [("SIGINT", "interrupted"), ("SIGTERM", "ended by SIGTERM"), ("SIGALRM", "interrupted")]
)
def test_a_signal_within_a_finalizer_ends_the_command(name: str, says: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, name], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, f"pydump: error: {says}\n")
