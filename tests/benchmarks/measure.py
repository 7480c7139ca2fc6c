"""How long a command takes as a whole process, and how much memory it and its children hold at most."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

#: Seconds between two looks at the memory of a process tree.
INTERVAL = 0.01
#: A run is disturbed when others have used more than this share of the machine meanwhile.
DISTURBED = 0.08
#: No command takes longer than this, in seconds.
TIMEOUT = 300


class CommandError(Exception):
    """A command failed; the text is the last thing it said."""


def seconds(command: Sequence[str]) -> float:
    """Wall-clock seconds from the start of ``command`` to its end.

    Raises:
        CommandError: It failed.
    """
    began = time.perf_counter()
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise CommandError(f"not done after {TIMEOUT} s") from None
    took = time.perf_counter() - began
    if ended.returncode:
        lines = (ended.stdout + ended.stderr).decode(errors="replace").split("\n")
        raise CommandError(next((line for line in reversed(lines) if line.strip()), f"exit code {ended.returncode}"))
    return took


class Others:
    """What other processes use of the machine's processors, from when it is made."""

    def __init__(self) -> None:
        self._began, self._used = time.perf_counter(), self._seconds()

    def share(self) -> float:
        """The share of all processors that they have used since."""
        took = time.perf_counter() - self._began
        return max(0.0, self._seconds() - self._used) / took / (os.cpu_count() or 1)

    @staticmethod
    def _seconds() -> float:
        """CPU seconds of all processes but this one and its children that have ended."""
        # Source: proc(5), /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal.
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        ours = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK") - ours


def await_quiet(timeout: float) -> None:
    """Wait until others use little of the machine, but no longer than ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        others = Others()
        time.sleep(0.3)
        if others.share() < DISTURBED:
            return


def peak_memory(command: Sequence[str]) -> int:
    """Peak bytes of anonymous and shared memory in the process tree of ``command``; pages shared by fork count once.

    Pages of files that are mapped are not counted: they are the page cache's.

    Raises:
        CommandError: It failed.
    """
    peak = 0
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            peak = max(peak, sum(map(_memory, tree(process.pid))))
            time.sleep(INTERVAL)
    if process.returncode:
        raise CommandError(f"exit code {process.returncode}")
    return peak


def tree(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from tree(int(child))
    except OSError:  # it has ended
        return


def _memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    fields = dict(line.split(":", 1) for line in lines[1:])
    return sum(int(fields[name].split()[0]) << 10 for name in ("Pss_Anon", "Pss_Shmem") if name in fields)
