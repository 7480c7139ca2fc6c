"""``pydump`` as a program whose jobs are forked from it, with all that they import, rather than started anew.

    python tests/forked_jobs.py batch …

Each job is a process of its own as with ``pydump batch``, and takes a tenth of the time.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Sequence
from typing import IO

import in_fork
import pydump
from pydump.cli import children
from pydump.process import die_with_parent
from pydump.testing import guests


class Forked:
    """What :func:`pydump.cli.children.start` returns, as far as it is used."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended."""
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)


def start(words: Sequence[str], out: IO[bytes] | None = None, messages: IO[bytes] | None = None) -> Forked:
    """As :func:`pydump.cli.children.start`."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        assert out is not None
        assert messages is not None
        die_with_parent(parent, signal.SIGTERM)
        nothing = os.open(os.devnull, os.O_RDONLY)
        in_fork._become(tuple(words), os.getcwd(), nothing, out.fileno(), messages.fileno())
    return Forked(pid)


def warm() -> None:
    """Load what a job loads."""
    with tempfile.TemporaryDirectory() as directory:
        for format, source in (("elf", f"raw:{directory}/ram@0"), ("kdump", f"{directory}/elf")):
            if format == "elf":
                with open(f"{directory}/ram", "wb") as file:
                    file.write(guests.text_page(1))
            pydump.dump(source, f"{directory}/{format}", format=format, arch="x86_64", workers=1)


if __name__ == "__main__":
    warm()
    children.start = start  # type: ignore[assignment]
    in_fork.pydump.__main__.main()
