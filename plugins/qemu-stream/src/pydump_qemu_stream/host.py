"""Guest memory where it lies on this host: in a file that QEMU shares, or in the QEMU process.

Source: proc(5) on mem, fd and map_files; ``gpa2hva`` of QEMU's human monitor (hmp-commands.hx).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from pydump.errors import ReadError
from pydump.interfaces.backing import data_of
from pydump.model.memory import MemoryMap, RamBlock, Ranges
from pydump_qemu_stream.maps import Mapping, held, mapping_of
from pydump_qemu_stream.process import ImpossibleError, Process

NOT_SHARED: Final = "start QEMU with -object memory-backend-memfd,id=m,size=SIZE,share=on -machine memory-backend=m"
#: Characters of QEMU's that are shown.
MAX_SAID: Final = 200
_log = logging.getLogger("pydump.qmp")
_HVA = re.compile(r"\bis (?:0x)?([0-9a-f]{1,16})\b")


@dataclass(frozen=True, slots=True)
class Region:
    """A run of guest memory that lies in one run in QEMU's address space, and maybe in a file.

    Attributes:
        paddr: Guest-physical address of its first byte.
        size: Bytes.
        address: QEMU's address of its first byte.
        memory: QEMU's memory, where to read it; -1 to read the file.
        pagemap: QEMU's pagemap, where a page that is missing was never written to; -1 where that does not follow.
        anonymous: Is it in no file?
        file: The file that is mapped there, which may have holes; -1 where there is none, or it cannot be opened.
        offset: Where in the file it begins.
    """

    paddr: int
    size: int
    address: int
    memory: int
    pagemap: int
    anonymous: bool
    file: int
    offset: int

    @property
    def end(self) -> int:
        """One past its last byte."""
        return self.paddr + self.size

    @property
    def allocates(self) -> bool:
        """Would reading it make the host allocate its holes, because they cannot be seen?"""
        return self.memory >= 0 and self.file < 0 and not self.anonymous

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``paddr`` on.

        Raises:
            ReadError: QEMU is gone, or its file has become shorter.
        """
        if self.memory < 0:
            self._read(self.file, self.offset, paddr, buffer)
        elif self.file < 0:
            self._read(self.memory, self.address, paddr, buffer)
        else:  # a page of a file that is read by way of the process is allocated, even where the file has a hole
            at = paddr
            for start, end in self.data_ranges(paddr, len(buffer)):
                buffer[at - paddr : start - paddr] = bytes(start - at)
                self._read(self.memory, self.address, start, buffer[start - paddr : end - paddr])
                at = end
            buffer[at - paddr :] = bytes(paddr + len(buffer) - at)

    def _read(self, fd: int, offset: int, paddr: int, buffer: memoryview) -> None:
        done, start = 0, offset + paddr - self.paddr
        while done < len(buffer):
            try:
                n = os.preadv(fd, [buffer[done:]], start + done)
            except OSError as error:
                raise ReadError(paddr + done, len(buffer) - done, f"{error.strerror} in QEMU's memory") from error
            if n == 0:
                raise ReadError(paddr + done, len(buffer) - done, "QEMU's memory is gone: did QEMU end?")
            done += n

    def data_ranges(self, paddr: int, size: int) -> Iterator[tuple[int, int]]:
        """``(start, end)`` in paddr of what may hold data within the range; the rest is zero.

        A page of a private mapping is the process's own where it was written to, else the file's.
        """
        if self.file < 0 and self.pagemap < 0:
            yield paddr, paddr + size
            return
        at = paddr - self.paddr
        data = Ranges.empty()
        if self.pagemap >= 0:
            own = held(self.pagemap, self.address + at, size, self.memory if self.anonymous else -1)
            data = Ranges.of((start - self.address, end - self.address) for start, end in own)
        if self.file >= 0:
            runs = data_of(self.file, self.offset + at, size)
            data = data.union(Ranges.of((start - self.offset, end - self.offset) for start, end in runs))
        yield from ((self.paddr + start, self.paddr + end) for start, end in data)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where guest memory lies.

    Attributes:
        regions: What is read here, ascending.
        rest: What has to come from QEMU.
        way: How the regions are reached, in the words of --qemu-access.
    """

    regions: tuple[Region, ...]
    rest: tuple[RamBlock, ...]
    way: str

    @property
    def rest_size(self) -> int:
        """Bytes of the rest."""
        return sum(block.size for block in self.rest)

    def data(self, left_out: Ranges | None = None) -> list[tuple[Region, int, int]]:
        """``(region, start, end)`` in paddr of what may hold data in the regions, without what is left out."""
        without = Ranges.empty() if left_out is None else left_out
        return [
            (region, start, end)
            for region in self.regions
            for start, end in Ranges.of(region.data_ranges(region.paddr, region.size)).subtract(without)
        ]

    def holes(self) -> int:
        """Bytes of shared files that the host has not allocated."""
        regions = [region for region in self.regions if region.memory < 0]
        data = (end - start for region in regions for start, end in region.data_ranges(region.paddr, region.size))
        return sum(region.size for region in regions) - sum(data)

    @property
    def allocates(self) -> int:
        """Bytes, at most, that reading makes the host allocate."""
        return sum(region.size for region in self.regions if region.allocates)


class Host:
    """The QEMU process, seen from this host.

    Args:
        process: The process; it is closed with this.
        human: Runs a line of QEMU's human monitor, and gives what it prints.
    """

    def __init__(self, process: Process, human: Callable[[str], str]) -> None:
        self._process = process
        self._human = human
        #: What is open of it: its memory, its pagemap, and files that it maps by device and inode.
        self._open: dict[str | tuple[int, int], int] = {}
        self._failures: set[str] = set()

    def locate(self, memory: MemoryMap, access: str) -> Layout:
        """Where guest memory lies.

        Args:
            memory: Which.
            access: "shared" for a file that it is in, "process" for QEMU's address space, "auto" for either, the file
                where there is one.

        Raises:
            ImpossibleError: Most of it is in neither.
        """
        maps = [mapping_of(line) for line in self._process.text("maps").splitlines()]
        regions: list[Region] = []
        rest: list[RamBlock] = []
        ways: dict[str, None] = {}
        failure: ImpossibleError | None = None
        for block in memory:
            for paddr, mapping, address, size in self._parts(block, maps):
                for way in ("shared", "process") if access == "auto" else (access,):
                    try:
                        regions.append(self._region(paddr, size, address, mapping, way))
                    except ImpossibleError as error:
                        failure = error
                        if error.message not in self._failures:
                            self._failures.add(error.message)
                            _log.info("at %#x not by way of %s: %s", paddr, way, error.message)
                        continue
                    ways[way] = None
                    break
                else:
                    rest.append(RamBlock(paddr, size))
        layout = Layout(tuple(regions), tuple(rest), " and ".join(ways))
        if failure is not None and layout.rest_size > sum(region.size for region in regions):
            raise failure
        return layout

    def _region(self, paddr: int, size: int, address: int, mapping: Mapping, way: str) -> Region:
        offset = mapping.offset + address - mapping.start
        if way == "shared":
            if not mapping.shared or not mapping.inode:
                raise ImpossibleError("the guest's memory is not shared", hint=NOT_SHARED)
            return Region(paddr, size, address, -1, -1, False, self._file(mapping), offset)
        memory, file = self._file_of_process("mem"), -1
        if mapping.inode:
            with contextlib.suppress(ImpossibleError):
                file = self._file(mapping)
        # A page that the process has not made its own is the file's, and may hold data where that is not known.
        seen = not mapping.shared and (file >= 0 or not mapping.inode)
        pagemap = self._file_of_process("pagemap") if seen else -1
        return Region(paddr, size, address, memory, pagemap, not mapping.inode, file, offset)

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
            pid = self._process.pid
            raise ImpossibleError(f"process {pid} does not hold the guest's memory: it is not the QEMU process")

    def _host_address(self, paddr: int) -> int:
        """Where in QEMU's address space a byte of guest memory lies."""
        answer = self._human(f"gpa2hva {paddr:#x}")
        match = _HVA.search(answer)
        if match is None:
            said = " ".join(answer[:MAX_SAID].split())
            raise ImpossibleError(f"QEMU does not say where guest memory at {paddr:#x} lies: {said}")
        return int(match[1], 16)

    def _file_of_process(self, name: str) -> int:
        if name not in self._open:
            self._open[name] = self._process.open(name)
        return self._open[name]

    def _file(self, mapping: Mapping) -> int:
        """Open the file of a mapping.

        Raises:
            ImpossibleError: It cannot be opened.
        """
        key = mapping.device, mapping.inode
        if key not in self._open:
            self._open[key] = self._process.open_mapped(mapping)
        return self._open[key]

    def close(self) -> None:
        """Close what is open."""
        for fd in self._open.values():
            os.close(fd)
        self._open = {}
        self._process.close()
