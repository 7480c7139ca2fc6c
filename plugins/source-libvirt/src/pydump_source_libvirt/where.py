"""The QEMU process of a domain, and the memory in it.

libvirt names no process that could be believed: QEMU is sent a socket through its monitor, and whichever process holds
that is QEMU.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from pydump.errors import ReadError, SourceError
from pydump.model.memory import RamBlock, Ranges
from pydump_qemu_stream.domain import read_domain
from pydump_qemu_stream.process import ImpossibleError, Process
from pydump_source_libvirt.domain import MAX_PEEK, CommandError, Domain

#: What QEMU calls the socket. Another one of that name replaces it.
FDNAME: Final = "pydump-process"
#: Seconds in which libvirtd closes the socket that it has passed on, and between two looks.
HANDOVER: Final = 10
PAUSE: Final = 0.01


@contextlib.contextmanager
def process_of(domain: Domain) -> Iterator[Process]:
    """QEMU, which holds a socket of ours within the block: files of it can be opened.

    Raises:
        ImpossibleError: It is not visible from here.
        SourceError: libvirt does not pass the socket on.
    """
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            inode = os.fstat(theirs.fileno()).st_ino
            domain.monitor("getfd", [theirs.fileno()], fdname=FDNAME)
        try:
            process = Process(_holder(inode), inode, _owner(domain))
            try:
                yield process
            finally:
                process.close()
        finally:
            with contextlib.suppress(CommandError):
                domain.monitor("closefd", fdname=FDNAME)


def _holder(inode: int) -> int:
    """The one process that holds a socket."""
    deadline = time.monotonic() + HANDOVER
    while len(found := list(_holders(f"socket:[{inode}]"))) > 1 and time.monotonic() < deadline:
        time.sleep(PAUSE)
    if len(found) != 1:
        why = "several processes hold its descriptors" if found else "this user sees no process that is QEMU"
        raise ImpossibleError(why, hint="run pydump as root on the host, or in the container, where QEMU runs")
    return found[0]


def _holders(link: str) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if any(_link(f"{entry}/{name}") == link for name in os.listdir(entry)):
                yield int(entry.parent.name)


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _owner(domain: Domain) -> dict[str, int]:
    """Whose QEMU has to be: as the domain's XML says; else it is of the user whose libvirtd it is."""
    said, _ = read_domain(domain.xml())
    fields = said.owner.replace("+", "").split(":")
    if len(fields) == 2 and all(field.isascii() and field.isdecimal() for field in fields):
        return {"Uid": int(fields[0]), "Gid": int(fields[1])}
    for path in parse_qs(urlsplit(domain.uri).query).get("socket", []):
        with contextlib.suppress(OSError):
            return {"Uid": os.stat(path).st_uid}
    return {"Uid": os.geteuid()}


class Fetched:
    """Memory that libvirt has read.

    Args:
        domain: The domain.
        blocks: Which of its memory.

    Raises:
        SourceError: libvirt cannot read it.
    """

    def __init__(self, domain: Domain, blocks: tuple[RamBlock, ...]) -> None:
        self._held = {block.paddr: bytearray() for block in blocks}
        for block in blocks:
            for at in range(block.paddr, block.end, MAX_PEEK):
                size = min(MAX_PEEK, block.end - at)
                data = domain.peek(at, size)
                if len(data) != size:
                    raise SourceError(f"libvirt gave {len(data)} bytes of memory at {at:#x} instead of {size}")
                self._held[block.paddr] += data

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``paddr`` on; the range lies in one block."""
        for start, data in self._held.items():
            if start <= paddr and paddr + len(buffer) <= start + len(data):
                buffer[:] = data[paddr - start : paddr - start + len(buffer)]
                return
        raise ReadError(paddr, len(buffer), f"there is no RAM at {paddr:#x}")

    def data_ranges(self, paddr: int, size: int) -> Iterator[tuple[int, int]]:
        """All of the range."""
        yield from Ranges.of([(paddr, paddr + size)])
