"""QEMU writes, we read: a pipe, and QEMU's own ELF stream through it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Final

from pydump.errors import SourceError
from pydump_source_qemu.limits import LIMITS, PROGRESS
from pydump_source_qemu.monitor import CommandError, Monitor

#: Bytes the kernel may buffer; what an unprivileged process may have.
PIPE_SIZE: Final = 1 << 20
#: Seconds between two questions whether a dump has ended.
POLL: Final = 0.0005


class RefusedError(SourceError):
    """This QEMU does not dump this guest, now or later: its target has no dumps, for example."""


class Pipe:
    """The reading end.

    Args:
        fd: Its file descriptor.
        directory: Where it has a name, or None.
        patience: Seconds to wait for the next PROGRESS bytes. What this process does in between does not count.

    Attributes:
        fd: Its file descriptor, or -1 when it is closed.
    """

    def __init__(self, fd: int, directory: str | None = None, patience: float = LIMITS.stream) -> None:
        self.fd = fd
        self._directory = directory
        self._patience = patience
        self._at = 0
        #: How long, and how much has come, since PROGRESS bytes had come for the last time.
        self._waited = 0.0
        self._came = 0

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes.

        Raises:
            EOFError: QEMU stopped writing before.
        """
        buffer = bytearray(size)
        self.read_into(memoryview(buffer))
        return bytes(buffer)

    def read_into(self, buffer: memoryview) -> None:
        """Fill ``buffer``; raises as :meth:`read`."""
        done = 0
        while done < len(buffer):
            done += self.read_some(buffer[done:])

    def read_some(self, buffer: memoryview) -> int:
        """Fill the beginning of ``buffer``, and give how much of it; raises as :meth:`read`."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        began = time.monotonic()
        if not poll.poll(max(0.0, self._patience - self._waited) * 1000):
            raise SourceError(
                f"QEMU's stream does not go on: {self._came} bytes in {self._patience:g} s",
                hint="is QEMU stopped, or its host short of memory?",
            )
        self._waited += time.monotonic() - began
        n = os.readv(self.fd, [buffer])
        if n == 0:
            raise EOFError
        self._came += n
        if self._came >= PROGRESS:
            self._came, self._waited = 0, 0.0
        self._at += n
        return n

    def skip_to(self, offset: int) -> None:
        """Throw away what comes before ``offset`` in the stream; raises as :meth:`read`."""
        while self._at < offset:
            self.read(min(1 << 20, offset - self._at))

    def drain(self, limit: int) -> None:
        """Read to the end.

        Args:
            limit: Bytes after which it must have come.

        Raises:
            SourceError: It has not.
        """
        buffer = memoryview(bytearray(1 << 20))
        with contextlib.suppress(EOFError):
            while limit >= 0:
                limit -= self.read_some(buffer)
            raise SourceError("QEMU's stream goes on behind its end")

    def unname(self) -> None:
        """QEMU has opened it, and nobody else shall; so nothing is left of it, however this process ends."""
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def close(self) -> None:
        """Read no more; QEMU's next write fails."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@contextlib.contextmanager
def opened(monitor: Monitor, patience: float | None = None) -> Iterator[tuple[Pipe, str]]:
    """A pipe from QEMU to us.

    Through a UNIX socket QEMU gets its writing end. Through TCP it gets a path, which leads to us only if it runs on
    this host; the path lies in a directory that exists nowhere else, so that no file is left on another one.

    Args:
        monitor: The connection.
        patience: As for :class:`Pipe`; None for what a dump may take.

    Yields:
        The reading end, and what QEMU calls the writing end: ``fd:NAME`` or ``file:PATH``.

    Raises:
        SourceError: QEMU does not take it.
    """
    patience = monitor.limits.stream if patience is None else patience
    if monitor.local:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        pipe = Pipe(reader, patience=patience)
        name = f"pydump-{writer}"  # more than one pipe may be on its way
        try:
            try:
                monitor.pass_fd(writer, name)
            finally:
                os.close(writer)
            yield pipe, f"fd:{name}"
        finally:
            pipe.close()
        return
    directory = tempfile.mkdtemp(prefix="pydump-")
    pipe = Pipe(-1, directory, patience)
    try:
        path = os.path.join(directory, "pipe")
        os.mkfifo(path)
        os.chmod(path, 0o622)  # QEMU may run as another user; only we may read
        os.chmod(directory, 0o711)
        pipe.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(pipe.fd, True)
        yield pipe, f"file:{path}"
    finally:
        pipe.unname()
        pipe.close()


def widen(pipe: Pipe) -> None:
    """Have the kernel buffer more, where it allows: fewer turns for much data."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe.fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)


@contextlib.contextmanager
def elf_stream(monitor: Monitor, window: tuple[int, int] | None = None) -> Iterator[Pipe]:
    """QEMU's ELF dump as a stream. Leaving the block early ends the dump.

    The guest is paused meanwhile; when the stream ends QEMU lets it run again if it ran before.

    Args:
        monitor: The connection.
        window: ``(begin, length)`` in paddr, or None for all memory.

    Raises:
        RefusedError: This QEMU does not dump this guest.
        SourceError: It does not now, or fails.
    """
    filtered = {} if window is None else {"begin": window[0], "length": window[1]}
    if await_resumed(monitor) == "save-vm":
        # A dump that begins now would make QEMU forget that the guest ran before the one that has just ended.
        raise SourceError("somebody saves or dumps this guest", hint="wait until it has ended")
    with opened(monitor) as (pipe, protocol):
        try:
            # Detached, because else QEMU would answer nobody while its pipe is full.
            monitor.command("dump-guest-memory", paging=False, protocol=protocol, detach=True, **filtered)
        except CommandError as error:
            if monitor.local:
                with contextlib.suppress(SourceError):
                    monitor.command("closefd", fdname=protocol.removeprefix("fd:"))
            raise _refused(monitor, error) from None
        pipe.unname()
        try:
            yield pipe
        except EOFError:
            status = monitor.field("query-dump", "status", str)
            raise SourceError(f"QEMU's dump broke off, with status {status!r}") from None
        except BaseException:
            pipe.close()
            with contextlib.suppress(SourceError):
                _await_end(monitor)
            raise
        pipe.close()
        _await_end(monitor)


def _await_end(monitor: Monitor) -> None:
    deadline = time.monotonic() + monitor.limits.end
    while monitor.field("query-dump", "status", str) == "active":
        if time.monotonic() > deadline:
            raise SourceError("QEMU goes on with a dump that nobody reads")
        time.sleep(POLL)
    if await_resumed(monitor) == "save-vm":
        raise SourceError("QEMU does not let the guest run after a dump")


def await_resumed(monitor: Monitor) -> str:
    """The guest's run state. QEMU says that a dump has ended a moment before it lets the guest run again.

    Returns:
        The state; it is "save-vm" if that does not end.
    """
    deadline = time.monotonic() + monitor.limits.end
    while (status := monitor.field("query-status", "status", str)) == "save-vm" and time.monotonic() < deadline:
        time.sleep(POLL)
    return status


def _refused(monitor: Monitor, error: CommandError) -> SourceError:
    if not monitor.local and "open" in error.why:
        return SourceError(
            f"QEMU at {monitor.address} cannot write to a pipe on this host: {error.why}",
            hint="run pydump where QEMU runs, best with its UNIX socket: memory does not pass through a monitor",
        )
    hints = {
        "dump in process": "wait until it has ended: query-dump says when",
        "incoming migration": "wait until the guest has arrived",
        "migration blocker": "wait until its migration has ended",
        "machine initialization": "it was started with --preconfig: x-exit-preconfig lets it go on",
    }
    message = f"QEMU does not dump this guest: {error.why}"
    hint = next((hint for words, hint in hints.items() if words in error.why), None)
    return RefusedError(message) if hint is None else SourceError(message, hint=hint)
