"""Reads LiME memory images: ranges of memory, each behind a header."""

from __future__ import annotations

from typing import Final, NamedTuple

from pydump.errors import FormatError
from pydump.interfaces.backing import Backing
from pydump.interfaces.pieces import PiecesImage, held_pieces
from pydump.layout.lime import AVML_MAGIC, LIME_MAGIC, LIME_VERSION, RangeHeader
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges

#: A file has at most this many ranges: 16 TiB in ranges of 16 MiB.
MAX_RANGES: Final = 1 << 20
#: No guest has more RAM.
MAX_RAM: Final = 1 << 47


class _Range(NamedTuple):
    """A range of memory: where it lies in the guest and in the file, in bytes."""

    paddr: int
    offset: int
    size: int


class LimeImage(PiecesImage):
    """A LiME memory image.

    Raises:
        FormatError: Its first header is damaged.
    """

    def __init__(self, backing: Backing) -> None:
        ranges, warnings = _read_ranges(backing)
        pieces, self._lost = held_pieces(backing, ranges)
        ram = Ranges.of((one.paddr, one.paddr + one.size) for one in ranges)
        super().__init__(backing, pieces, MemoryMap.of((start, end - start) for start, end in ram))
        self._n_ranges = len(ranges)
        self._cut = bool(warnings)
        if ram.size < sum(one.size for one in ranges):
            warnings.append("ranges overlap: where they do, the one that begins first is read")
        if self._lost:
            warnings.append(f"the file is cut off: {self._lost.size} bytes of guest memory are lost")
        self._warnings = (*backing.warnings, *warnings)

    def guest(self) -> Guest:
        return Guest(self._memory)

    def unreadable(self) -> Ranges:
        return self._lost

    def more_lost(self) -> bool:
        return self._cut

    def describe(self) -> tuple[tuple[str, str], ...]:
        return (("format", f"LiME, {self._n_ranges} range{'' if self._n_ranges == 1 else 's'}"),)

    def warnings(self) -> tuple[str, ...]:
        return self._warnings


def _read_ranges(backing: Backing) -> tuple[list[_Range], list[str]]:
    """The ranges that the headers of a file state, and a line for what ends them early.

    Raises:
        FormatError: There is none.
    """
    ranges: list[_Range] = []
    at, size = 0, RangeHeader.nbytes()
    total = 0
    fault = ""
    while at < backing.size and not fault:
        if at + size > backing.size:
            fault = "the file ends within a header"
        elif len(ranges) == MAX_RANGES:
            fault = f"there are more than {MAX_RANGES} ranges"
        else:
            header = RangeHeader.unpack(backing.read(at, size), "little")
            total += header.e_addr - header.s_addr + 1
            fault = _fault(header, total)
        if not fault:
            length = header.e_addr - header.s_addr + 1
            ranges.append(_Range(header.s_addr, at + size, length))
            at += size + length
    if not ranges:
        raise FormatError(backing.path, fault or "the file is empty", offset=at)
    return ranges, [f"{fault} at offset {at:#x}: what follows is not read"] if fault else []


def _fault(header: RangeHeader, total: int) -> str:
    """What is wrong with a header, or nothing; ``total`` is all RAM up to the end of its range, in bytes."""
    if header.magic == AVML_MAGIC:
        return "an AVML block follows in a LiME file"
    if header.magic != LIME_MAGIC or header.version != LIME_VERSION:
        return "there is no LiME header"
    if header.e_addr < header.s_addr:
        return f"a range ends at {header.e_addr:#x}, before it begins"
    if header.e_addr == (1 << 64) - 1 or total > MAX_RAM:
        return f"a range at paddr {header.s_addr:#x} is too large"
    return ""
