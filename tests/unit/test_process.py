"""When processes were started, and that they end with their parents."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pydump.errors import Cancelled
from pydump.process import die_with_parent, outlive_parent, start_time

#: A child that forks one of its own, which prints its number, its start, and then waits to be ended.
FAMILY = """
import os, signal, time
from pydump.process import die_with_parent, start_time
parent = os.getpid()
if os.fork():
    os.read(0, 1)
    os._exit(0)
die_with_parent(parent, signal.SIGKILL)
print(os.getpid(), start_time(os.getpid()), flush=True)
time.sleep(60)
"""


def test_a_process_ends_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", FAMILY], stdin=-1, stdout=-1, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        pid, started = map(int, parent.stdout.readline().split())
        assert start_time(pid) == started
        parent.stdin.close()
        assert parent.stdout.read() == ""  # the pipe's last writer is ending
    deadline = time.monotonic() + 30
    while start_time(pid) == started:
        assert time.monotonic() < deadline


def test_a_process_whose_parent_has_ended_already_is_cancelled() -> None:
    try:
        with pytest.raises(Cancelled, match="parent process is gone"):
            die_with_parent(os.getppid() + 1, signal.SIGTERM)
    finally:
        outlive_parent()


def test_the_start_of_a_process_is_in_clock_ticks_since_boot() -> None:
    def now() -> float:
        return float(Path("/proc/uptime").read_text().split()[0]) * os.sysconf("SC_CLK_TCK")

    before = now()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as child:
        after = now()
        started = start_time(child.pid)
        child.communicate(b"\n")
    assert started is not None
    assert before - 2 <= started <= after + 2


@pytest.mark.parametrize("pid", [1 << 30, 1 << 70], ids=["not there", "too large for a number"])
def test_a_process_that_is_not_there_has_no_start(pid: int) -> None:
    assert start_time(pid) is None


def test_a_process_that_has_ended_and_was_not_waited_for_has_no_start() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert start_time(child.pid) is None
