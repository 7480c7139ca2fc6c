"""The process that captures a domain, seen from the one that has started it. See :mod:`.recorder`."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

from pydump.errors import PlanError, PydumpError, SourceError
from pydump_source_libvirt.domain import Domain
from pydump_source_libvirt.dump import Fifo, give_up, unname
from pydump_source_libvirt.undo import set_back_after

#: Seconds that the recorder may take to undo what it did before this process goes on; it stays at it.
GRACE: Final = 10

_log = logging.getLogger("pydump.libvirt")


class Recording:
    """A recorder at work.

    Args:
        domain: The domain.
        way: How it is captured.
        file: What the recorder fills.

    Raises:
        SourceError: It cannot be started.
    """

    def __init__(self, domain: Domain, way: str, file: BinaryIO) -> None:
        self._domain = domain
        self._fifo = Fifo()
        self._pipe = os.pipe()
        self._socket, theirs = socket.socketpair()
        try:
            self._process = _started(domain, way, theirs, self._pipe, self._fifo, file)
        except OSError as error:
            self._socket.close()
            os.close(self._pipe[0])
            unname(self._fifo.path)
            raise SourceError(f"cannot start the process that captures the domain: {error.strerror}") from None
        finally:
            theirs.close()
            os.close(self._pipe[1])
            os.close(self._fifo.fd)  # a dump has to fail when the recorder reads no more of it
        self._lines = self._socket.makefile("rb")
        self._closed = False

    def answer(self, kept: Callable[[int], None]) -> dict[str, Any]:
        """Wait until it is done, or holds the domain.

        Args:
            kept: Called with how many bytes it has kept.

        Returns:
            What it says then.

        Raises:
            PydumpError: It failed.
        """
        for text in self._lines:
            line = json.loads(text)
            if "caution" in line:
                _log.warning("%s", line["caution"])
            elif "kept" in line:
                kept(line["kept"])
            elif "error" in line:
                cls: type[PydumpError] = PlanError if line["code"] == PlanError.exit_code else SourceError
                raise cls(line["error"], hint=line["hint"])
            else:
                return dict(line)
        raise SourceError("the process that captures the domain has ended before it was done")

    def let_go(self) -> dict[str, Any]:
        """Have it let the domain run again, and wait until it does; raises and returns as :meth:`answer`."""
        self._socket.settimeout(GRACE)
        try:
            self._socket.shutdown(socket.SHUT_WR)
            return self.answer(lambda _: None)
        except OSError:
            raise SourceError(
                f"the domain {self._domain.name} does not run yet", hint="a process goes on trying to let it run"
            ) from None
        finally:
            self.close()

    def close(self) -> None:
        """Let it end, and do what it has left to do if somebody has killed it."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            killed = self._process.wait(GRACE) < 0
        except subprocess.TimeoutExpired:
            self._process.returncode, killed = 0, False  # it goes on by itself; say nothing of it at exit
        try:
            if killed:
                give_up(self._domain, self._fifo.path)
                set_back_after(self._domain, self._pipe[0])
            else:
                os.close(self._pipe[0])
        finally:
            unname(self._fifo.path)
            self._lines.close()
            self._socket.close()


def _started(
    domain: Domain, way: str, parent: socket.socket, pipe: tuple[int, int], fifo: Fifo, file: BinaryIO
) -> subprocess.Popen[bytes]:
    """The recorder, which no signal ends that can be blocked, nor the end of the terminal."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "recorder.py", way, domain.uri, domain.uuid, str(os.getpid()),
             *map(str, pipe), fifo.path, str(fifo.fd)],
            cwd=str(Path(__file__).parent),
            stdin=parent.fileno(),
            stdout=file.fileno(),
            stderr=subprocess.DEVNULL,
            pass_fds=(*pipe, fifo.fd),
            start_new_session=True,
        )  # fmt: skip
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
