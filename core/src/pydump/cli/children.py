"""Commands of pydump's that run in processes of their own, and end with this one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO, Final

#: Seconds that they have to end after SIGTERM.
GRACE: Final = 10
#: What such a process runs: it ends when the process that started it ends.
BOOT: Final = (
    "import signal, sys; from pydump.process import die_with_parent; "
    "die_with_parent(int(sys.argv.pop(1)), signal.SIGTERM); from pydump.__main__ import main; sys.exit(main())"
)


def start(
    words: Sequence[str], out: IO[bytes] | None = None, messages: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Start a command.

    Args:
        words: What stands after ``pydump`` on its command line.
        out: Its standard output; None for that of this process.
        messages: Its standard error; likewise.
    """
    return subprocess.Popen(
        [sys.executable, "-c", BOOT, str(os.getpid()), *words], stdin=subprocess.DEVNULL, stdout=out, stderr=messages
    )


def end(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes: first by asking."""
    for process in running:
        process.terminate()
    until = time.monotonic() + GRACE
    for process in running:
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
