"""How much memory some work takes, that of native libraries included."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import get_context
from resource import RUSAGE_SELF, getrusage
from typing import Any


def peak_of(work: Callable[[], object]) -> int:
    """Bytes by which a process grows, at its largest, while it does ``work``.

    It is done in a forked process, for only there the largest so far is not that of all that was done before.
    """
    fork = get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=_measure, args=(work, theirs))
    process.start()
    theirs.close()
    process.join(60)
    if process.is_alive():
        process.kill()
        process.join()
    assert process.exitcode == 0, f"the forked process ended with exit code {process.exitcode}"
    kilobytes: int = ours.recv()
    return kilobytes << 10


def _measure(work: Callable[[], object], pipe: Any) -> None:
    before = getrusage(RUSAGE_SELF).ru_maxrss
    work()
    pipe.send(getrusage(RUSAGE_SELF).ru_maxrss - before)
