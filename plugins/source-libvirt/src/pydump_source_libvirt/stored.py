"""What was captured, in a file without a name."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from typing import BinaryIO

from pydump.errors import ReadError, SourceError
from pydump.interfaces.backing import Backing, data_of
from pydump.interfaces.image import MemoryImage
from pydump.model.guest import Guest
from pydump_qemu_stream.elf_head import Head, Load, read_head


class StoredStream(Backing):
    """A file that holds a stream."""

    path = "the captured memory"

    def __init__(self, file: BinaryIO) -> None:
        self._fd = os.dup(file.fileno())
        self.size = os.fstat(self._fd).st_size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.check(offset, len(buffer))
        while buffer:
            try:
                n = os.preadv(self._fd, [buffer], offset)
            except OSError as error:
                raise SourceError(f"cannot read {self.path}: {error.strerror}") from None
            if not n:
                raise SourceError(f"cannot read {self.path}: it has become shorter")
            offset, buffer = offset + n, buffer[n:]

    def data_ranges(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        return data_of(self._fd, offset, size)

    def close(self) -> None:
        os.close(self._fd)


class DumpImage(MemoryImage):
    """The memory in QEMU's own ELF dump.

    Args:
        file: It is closed with the image.
        described: What is said of the domain.
        warnings: What the user should know of the capture, a line each.

    Raises:
        SourceError: It is not such a dump, or ends early.
    """

    def __init__(
        self, file: StoredStream, described: tuple[tuple[str, str], ...] = (), warnings: tuple[str, ...] = ()
    ) -> None:
        self._file = file
        self._described, self._warnings = described, warnings
        head = read_stored(file)
        self._guest = head.guest
        self._loads = sorted(head.loads, key=lambda load: load.paddr)
        self._starts = [load.paddr for load in self._loads]
        if any(load.offset + load.size > file.size for load in self._loads):
            raise SourceError("libvirt's dump ends before the memory does")

    def guest(self) -> Guest:
        return self._guest

    def _parts(self, paddr: int, size: int) -> Iterator[tuple[Load, int, int]]:
        """``(load, start, end)`` in paddr of what lies in a range."""
        at, end = paddr, paddr + size
        while at < end:
            i = bisect_right(self._starts, at) - 1
            if i < 0 or at >= self._loads[i].paddr + self._loads[i].size:
                raise ReadError(paddr, size, f"there is no RAM at {at:#x}")
            load = self._loads[i]
            stop = min(end, load.paddr + load.size)
            yield load, at, stop
            at = stop

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        for load, start, end in self._parts(paddr, len(buffer)):
            self._file.read_into(start - load.paddr + load.offset, buffer[start - paddr : end - paddr])

    def data_ranges(self, paddr: int, size: int) -> Iterator[tuple[int, int]]:
        """``(start, end)`` in paddr of what may hold data; the rest is zero."""
        for load, start, end in self._parts(paddr, size):
            shift = load.paddr - load.offset
            for first, last in self._file.data_ranges(start - shift, end - start):
                yield first + shift, last + shift

    def describe(self) -> tuple[tuple[str, str], ...]:
        return self._described

    def warnings(self) -> tuple[str, ...]:
        return self._warnings

    def close(self) -> None:
        self._file.close()


def read_stored(file: Backing) -> Head:
    """The head of QEMU's own ELF dump.

    Raises:
        SourceError: It is not such a dump, or ends early.
    """
    try:
        return read_head(_Reader(file))
    except EOFError:
        raise SourceError("libvirt's dump ends within its headers") from None


class _Reader:
    """Reads a file from its beginning on."""

    def __init__(self, file: Backing) -> None:
        self._file = file
        self._at = 0

    def read(self, size: int) -> bytes:
        if self._at + size > self._file.size:
            raise EOFError
        self._at += size
        return self._file.read(self._at - size, size)
