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
from typing import Final

from pydump.errors import PydumpError
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
    state = domain.state()
    faults: list[PydumpError] = []

    def run() -> None:
        try:
            domain.dump(path)
        except PydumpError as error:
            faults.append(error)

    thread = threading.Thread(target=run)
    begun = time.monotonic()
    thread.start()
    try:
        while _begins(reader, thread):
            if not parent.waits or not (n := os.readv(reader, [buffer := bytearray(STEP)])):
                break
            parent.keep(memoryview(buffer)[:n])
    finally:
        os.close(reader)  # whatever is left to write fails
        thread.join()
    parent.check()
    if faults:
        raise faults[0]
    paused = time.monotonic() - begun if state == RUNNING else 0.0
    domain.await_state(state)
    return paused


def _begins(reader: int, thread: threading.Thread) -> bool:
    """Wait until there is something to read or an end to it. False if libvirt has ended without any.

    libvirt opens the pipe at a moment of its own. Without a reader it would wait for one, and the domain with it.
    """
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    while thread.is_alive():
        if poll.poll(PAUSE * 1000):
            return True
    return bool(poll.poll(0))


def give_up(domain: Domain, reader: int) -> None:
    """Read no more of a dump that another process of ours has begun and cannot read any more.

    Args:
        domain: The domain.
        reader: The reading end, which is closed when libvirt has opened the other one, or has ended.
    """
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    with contextlib.suppress(PydumpError):
        while domain.job() and not poll.poll(PAUSE * 1000):
            pass
    os.close(reader)
