"""Guest memory where it lies on this host: in a file that QEMU shares, or in the QEMU process.

Source: proc(5) on maps, pagemap, mem and fd; ``gpa2hva`` of QEMU's human monitor (hmp-commands.hx).
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pydump.errors import ReadError, SourceError
from pydump.interfaces.backing import data_of
from pydump.model.memory import MemoryMap, RamBlock
from pydump_source_qemu.monitor import Monitor

#: Firmware, which lies beside the memory backend even where that is shared, is at most so large in all.
MAX_REST: Final = 64 << 20
#: Pages looked up in pagemap at a time.
_LOOKUP: Final = 1 << 16
#: Bits of a pagemap entry: the page is in memory, or in swap.
_HELD: Final = 3 << 62
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_HVA = re.compile(r"\bis (?:0x)?([0-9a-f]+)")
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (....) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+)(?: +(.*))?")


class ImpossibleError(SourceError):
    """There is no such way to this guest's memory; the message says why."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """A line of ``/proc/PID/maps``.

    Attributes:
        start: First address.
        end: One past the last.
        shared: Is what is written seen by all who map the file?
        offset: Where in the file it begins.
        device: The file's, as st_dev.
        inode: The file's; 0 where there is none.
        path: What the kernel calls the file.
    """

    start: int
    end: int
    shared: bool
    offset: int
    device: int
    inode: int
    path: str


@dataclass(frozen=True, slots=True)
class Region:
    """A run of guest memory that lies in one run in a file or in QEMU's address space.

    Attributes:
        paddr: Guest-physical address of its first byte.
        size: Bytes.
        fd: Where to read it.
        offset: Where in there it begins.
        pagemap: QEMU's pagemap, where a page that is not there is zero; or -1.
        file: Is it a file, which may have holes?
    """

    paddr: int
    size: int
    fd: int
    offset: int
    pagemap: int
    file: bool

    @property
    def end(self) -> int:
        """One past its last byte."""
        return self.paddr + self.size

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``paddr`` on.

        Raises:
            ReadError: QEMU is gone, or its file has become shorter.
        """
        done, start = 0, self.offset + paddr - self.paddr
        while done < len(buffer):
            try:
                n = os.preadv(self.fd, [buffer[done:]], start + done)
            except OSError as error:
                raise ReadError(paddr + done, len(buffer) - done, f"{error.strerror} in QEMU's memory") from error
            if n == 0:
                raise ReadError(paddr + done, len(buffer) - done, "QEMU's memory is gone: did QEMU end?")
            done += n

    def data_ranges(self, paddr: int, size: int) -> Iterator[tuple[int, int]]:
        """``(start, end)`` in paddr of what may hold data within the range; the rest is zero."""
        base = self.paddr - self.offset
        if self.file:
            yield from ((base + a, base + b) for a, b in data_of(self.fd, paddr - base, size))
        elif self.pagemap >= 0:
            yield from ((base + a, base + b) for a, b in _process_data(self.pagemap, paddr - base, size))
        else:
            yield paddr, paddr + size


@dataclass(frozen=True, slots=True)
class Layout:
    """Where guest memory lies.

    Attributes:
        regions: What is read here, ascending.
        rest: What has to come from QEMU.
    """

    regions: tuple[Region, ...]
    rest: tuple[RamBlock, ...]


class Host:
    """The QEMU process, seen from this host.

    Raises:
        ImpossibleError: It is not to be seen.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self.pid = monitor.pid
        if not self.pid:
            raise ImpossibleError(
                "QEMU is not to be seen from here: its monitor is no UNIX socket, or it runs in another container",
                hint="run pydump where QEMU runs",
            )
        self._open: dict[tuple[int, int], int] = {}
        self._mem = self._pagemap = -1

    def locate(self, memory: MemoryMap, access: str) -> Layout:
        """Where guest memory lies.

        Args:
            memory: Which.
            access: "shared" for a file that it is in, "process" for QEMU's address space.

        Raises:
            ImpossibleError: It cannot be had there.
        """
        maps = self._maps()
        regions: list[Region] = []
        rest: list[RamBlock] = []
        for block in memory:
            for paddr, mapping, address, size in self._parts(block, maps):
                if access == "process":
                    pagemap = self._open_pagemap() if not mapping.inode and not mapping.shared else -1
                    regions.append(Region(paddr, size, self._open_mem(), address, pagemap, False))
                elif mapping.shared and mapping.inode:
                    offset = mapping.offset + address - mapping.start
                    regions.append(Region(paddr, size, self._open_file(mapping), offset, -1, True))
                else:
                    rest.append(RamBlock(paddr, size))
        if sum(block.size for block in rest) > min(MAX_REST, memory.size // 2):
            raise ImpossibleError(
                "the guest's memory is not shared",
                hint="start QEMU with -object memory-backend-memfd,id=m,size=SIZE,share=on -machine memory-backend=m",
            )
        return Layout(tuple(regions), tuple(rest))

    def _parts(self, block: RamBlock, maps: list[Mapping]) -> Iterator[tuple[int, Mapping, int, int]]:
        """``(paddr, mapping, address, size)`` of the mappings that a block lies in."""
        address = self._host_address(block.paddr)
        if self._host_address(block.end - 1) != address + block.size - 1:
            raise ImpossibleError(f"the guest's memory at {block.paddr:#x} does not lie in one piece in QEMU")
        at, end = address, address + block.size
        for mapping in maps:
            if mapping.end > at and mapping.start <= at < end:
                stop = min(mapping.end, end)
                yield block.paddr + at - address, mapping, at, stop - at
                at = stop
        if at < end:
            raise ImpossibleError(f"process {self.pid} does not hold the guest's memory: it is not the QEMU process")

    def _host_address(self, paddr: int) -> int:
        """Where in QEMU's address space a byte of guest memory lies."""
        answer = self._monitor.human(f"gpa2hva {paddr:#x}")
        match = _HVA.search(answer)
        if match is None:
            raise ImpossibleError(f"QEMU does not say where guest memory at {paddr:#x} lies: {answer.strip()}")
        return int(match[1], 16)

    def _maps(self) -> list[Mapping]:
        try:
            with open(f"/proc/{self.pid}/maps") as lines:
                return [mapping_of(line) for line in lines]
        except OSError as error:
            raise self._denied("maps", error) from error

    def _open_file(self, mapping: Mapping) -> int:
        key = mapping.device, mapping.inode
        if key not in self._open:
            self._open[key] = self._find_file(mapping)
        return self._open[key]

    def _find_file(self, mapping: Mapping) -> int:
        """Open the file of a mapping: one that QEMU has open, which may have no name, or else by its name."""
        directory = f"/proc/{self.pid}/fd"
        try:
            paths = [f"{directory}/{name}" for name in os.listdir(directory)]
        except OSError as error:
            raise self._denied("fd", error) from error
        failure: OSError | None = None
        for path in [*paths, mapping.path]:
            try:
                status = os.stat(path)
                if (status.st_dev, status.st_ino) == (mapping.device, mapping.inode):
                    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                failure = failure or (error if error.errno != errno.ENOENT else None)
        why = f": {failure.strerror}" if failure else ""
        raise ImpossibleError(
            f"the file with the guest's memory, {mapping.path}, cannot be opened{why}",
            hint="run pydump as the user that QEMU runs as",
        )

    def _open_mem(self) -> int:
        if self._mem < 0:
            try:
                self._mem = os.open(f"/proc/{self.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise self._denied("mem", error) from error
        return self._mem

    def _open_pagemap(self) -> int:
        if self._pagemap < 0:
            try:
                self._pagemap = os.open(f"/proc/{self.pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise self._denied("pagemap", error) from error
        return self._pagemap

    def _denied(self, what: str, error: OSError) -> ImpossibleError:
        return ImpossibleError(
            f"cannot open /proc/{self.pid}/{what} of QEMU: {error.strerror}",
            hint="run pydump as root, or as QEMU's user with kernel.yama.ptrace_scope=0",
        )

    def close(self) -> None:
        """Let go of files."""
        for fd in (*self._open.values(), self._mem, self._pagemap):
            if fd >= 0:
                os.close(fd)
        self._open, self._mem, self._pagemap = {}, -1, -1


def mapping_of(line: str) -> Mapping:
    """A line of ``/proc/PID/maps``.

    Raises:
        ValueError: It is none.
    """
    match = _MAPPING.match(line.rstrip("\n"))
    if match is None:
        raise ValueError(f"no line of maps: {line!r}")
    start, end, flags, offset, major, minor, inode, path = match.groups()
    device = os.makedev(int(major, 16), int(minor, 16))
    return Mapping(int(start, 16), int(end, 16), flags[3] == "s", int(offset, 16), device, int(inode), path or "")


def _process_data(pagemap: int, address: int, size: int) -> Iterator[tuple[int, int]]:
    """Pages of private anonymous memory that were ever written to; the others read as zero."""
    import numpy as np

    end = address + size
    last: tuple[int, int] | None = None
    first_page, past = address // _PAGE, -(-end // _PAGE)
    for page in range(first_page, past, _LOOKUP):
        n = min(_LOOKUP, past - page)
        entries = np.frombuffer(os.pread(pagemap, n * 8, page * 8), np.uint64)
        if len(entries) < n:
            yield (last[0] if last else max(address, page * _PAGE)), end
            return
        held = np.concatenate([[False], (entries & np.uint64(_HELD)) != 0, [False]])
        edges = (np.flatnonzero(held[1:] != held[:-1]) + page) * _PAGE
        for start, stop in edges.reshape(-1, 2).tolist():
            if last is not None and last[1] == start:
                last = last[0], stop
                continue
            if last is not None:
                yield max(last[0], address), min(last[1], end)
            last = start, stop
    if last is not None:
        yield max(last[0], address), min(last[1], end)
