"""Have libvirt dump a domain into a pipe, as ``virsh dump --memory-only`` does.

libvirt pauses the domain for that, if it runs, and lets it run again however the dump ends, even when libvirtd is
started again meanwhile. So nothing has to be undone here: a dump that nobody reads fails.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import tempfile
import threading
import time
from typing import Final, Self

from pydump.errors import PydumpError, SourceError
from pydump_qemu_stream.elf_head import read_head
from pydump_source_libvirt.domain import RUNNING, Domain
from pydump_source_libvirt.parent import STEP, Parent

#: Seconds between two looks whether libvirt has begun.
PAUSE: Final = 0.02


class Fifo:
    """A pipe with a name, which libvirt opens, whoever it runs as. No other user can read it.

    Attributes:
        path: Its name.
        fd: The reading end.
    """

    def __init__(self) -> None:
        directory = tempfile.mkdtemp(prefix="dump-")
        self.path = os.path.join(directory, "pipe")
        try:
            os.mkfifo(self.path)
            os.chmod(self.path, 0o622)
            os.chmod(directory, 0o711)
            self.fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except BaseException:
            unname(self.path)
            raise


def unname(path: str) -> None:
    """Take the name of a pipe away, and its directory."""
    shutil.rmtree(os.path.dirname(path), ignore_errors=True)


def dump(domain: Domain, path: str, reader: int, parent: Parent) -> float:
    """Have libvirt dump all memory.

    Args:
        domain: A domain that is active.
        path: The name of a pipe.
        reader: Its reading end, which is closed.
        parent: Keeps what comes.

    Returns:
        For how many seconds the guest was paused, at most.

    Raises:
        SourceError: It failed.
        Cancelled: The parent is gone.
    """
    state, begun = domain.state(), time.monotonic()
    with _Dump(domain, path, reader, parent) as stream:
        while parent.waits and stream.readable() and stream.some(STEP):
            pass
    parent.check()
    if stream.faults:
        raise stream.faults[0]
    paused = time.monotonic() - begun if state == RUNNING else 0.0
    domain.await_state(state)
    return paused


def head(domain: Domain, path: str, reader: int, parent: Parent) -> float:
    """Have libvirt begin a dump, and keep what comes before memory: the guest's facts. Raises and returns as dump()."""
    state, begun = domain.state(), time.monotonic()
    with _Dump(domain, path, reader, parent) as stream:
        try:
            read_head(stream)
        except EOFError:
            ended = True
        else:
            ended = False
    parent.check()
    if ended:
        raise stream.faults[0] if stream.faults else SourceError("libvirt's dump ends within its headers")
    paused = time.monotonic() - begun if state == RUNNING else 0.0
    domain.await_state(state)
    return paused


class _Dump:
    """A dump by libvirt within the block, after which nobody reads on: what is left to write fails.

    Attributes:
        faults: What libvirt says of it, when it has ended.
    """

    def __init__(self, domain: Domain, path: str, reader: int, parent: Parent) -> None:
        self.faults: list[PydumpError] = []
        self._domain, self._path, self._reader, self._parent = domain, path, reader, parent
        self._buffer = memoryview(bytearray(STEP))
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self._domain.dump(self._path)
        except PydumpError as error:
            self.faults.append(error)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._reader)
        self._thread.join()

    def readable(self) -> bool:
        """Wait until there is something to read or an end to it. False if libvirt has ended without any.

        libvirt opens the pipe at a moment of its own. Without a reader it would wait for one, and the domain with it.
        """
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        while self._thread.is_alive():
            if poll.poll(PAUSE * 1000):
                return True
        return bool(poll.poll(0))

    def some(self, most: int) -> memoryview:
        """What there is to read, which is kept, until the next call; empty at the end."""
        found = self._buffer[: os.readv(self._reader, [self._buffer[:most]])]
        self._parent.keep(found)
        return found

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes, which are kept; EOFError where the dump ends before, or nobody waits for it."""
        data = bytearray()
        while len(data) < size:
            if not (self._parent.waits and self.readable() and (more := self.some(min(STEP, size - len(data))))):
                raise EOFError
            data += more
        return bytes(data)


def give_up(domain: Domain, path: str) -> None:
    """Read nothing of a dump that another process of ours has begun and cannot read any more.

    Args:
        domain: The domain.
        path: The name of the pipe, which is read from until libvirt has opened it as well, or has ended.
    """
    try:
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    with contextlib.suppress(PydumpError):
        while domain.job() and not poll.poll(PAUSE * 1000):
            pass
    os.close(reader)
