"""Writes Windows crash dumps: full ones, and bitmap dumps where memory is in too many runs or not all there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pydump.errors import UnsupportedError
from pydump.interfaces import bitmap
from pydump.interfaces.sink import Extent, Hole
from pydump.interfaces.writer import Batch, Encoded, Encoder, Writer
from pydump.layout.windows import HEADERS, UNSET, DumpHeader64
from pydump.model.memory import Ranges
from pydump_format_windmp.facts import MACHINES, X86
from pydump_format_windmp.layout import (
    DESCRIPTORS,
    MAX_RUNS,
    PAGE_SIZE,
    RUNS,
    DumpType,
    PhysicalMemoryDescriptor64,
    SummaryDump,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pydump.model.plan import Plan

#: A bitmap's bits are a multiple of this: LeechCore drops what is left over, and kdmp-parser a part of a byte.
BITMAP_UNIT = 64
#: The upper half of a 64-bit number.
_UPPER = 0xFFFFFFFF << 32
#: The highest address that each header can have a run for.
_LIMITS = {64: 1 << 52, 32: 1 << 44}


@dataclass(frozen=True, slots=True)
class WindmpEncoder(Encoder[None]):
    """Writes memory as it is, but for what the dump holds in its place.

    Attributes:
        start: Where in the file memory begins.
        overlays: Positions in the stored stream, and the bytes that stand there.
    """

    start: int
    overlays: tuple[tuple[int, bytes], ...]

    def encode(self, batch: Batch) -> Encoded[None]:
        begin, end = batch.position, batch.position + batch.size
        inside = [(at, new) for at, new in self.overlays if at < end and begin < at + len(new)]
        data: memoryview | bytearray | None = batch.data
        if inside:
            data = bytearray(batch.size) if batch.data is None else bytearray(batch.data)
            for at, new in inside:
                first, last = max(at, begin), min(at + len(new), end)
                data[first - begin : last - begin] = new[first - at : last - at]
        return Encoded(batch.position, 0, data, None, batch.size, batch.size if data is None else 0)

    def extents(self, encoded: Encoded[None], start: int, answer: None = None) -> Iterator[Extent | Hole]:
        at = self.start + encoded.position
        yield Hole(at, encoded.size) if encoded.payload is None else Extent(at, encoded.payload)


class WindmpWriter(Writer):
    """One dump.

    All of RAM, in as many runs as the header has room for, makes a full dump. Else a bitmap says which pages are there.
    """

    sequential: ClassVar[bool] = True

    def __init__(self, plan: Plan) -> None:
        guest = plan.guest
        bits = guest.windows.bits if guest.windows else MACHINES.get(guest.machine or 0, (64, 0))[0]
        if guest.memory.end > _LIMITS[bits]:
            raise UnsupportedError(f"RAM ends at {guest.memory.end:#x}, past what a Windows crash dump can name")
        self.unit = PAGE_SIZE
        # Of registers that have no place, the plan says it.
        self.carries = frozenset({"arch"} if guest.machine in MACHINES else ()) | (
            {"registers"} if guest.machine in X86 else set()
        )
        header = HEADERS[bits].unpack(guest.windows.header, "little") if guest.windows else HEADERS[bits]()
        ram = guest.memory.ranges().page_aligned(PAGE_SIZE)
        held = plan.readable().page_aligned(PAGE_SIZE)
        if plan.compat == "qemu" and guest.windows:
            ram = held = header_runs(header.physical_memory_block, bits)
        self.stored = held
        self._overlays = _in_stream(held, plan.overlays)
        full = held == ram and len(ram) <= MAX_RUNS[bits]
        self._bits = 0 if full else -(-ram_pages(ram) // BITMAP_UNIT) * BITMAP_UNIT
        at = header.nbytes()
        self.start = at if full else -(-(at + SummaryDump.nbytes() + self._bits // 8) // PAGE_SIZE) * PAGE_SIZE
        self.size_limit = self.start + held.size
        changes: dict[str, Any] = {"required_dump_space": self.size_limit}
        if plan.compat is None:
            block = _memory_block(ram, bits)
            changes["physical_memory_block"] = block + header.physical_memory_block[len(block) :]
            changes["dump_type"] = DumpType.FULL if full else DumpType.BITMAP_FULL
        elif bits == 32:  # QEMU writes the lower half
            changes["required_dump_space"] = header.required_dump_space & _UPPER | self.size_limit & ~_UPPER
        elif isinstance(header, DumpHeader64):
            at_unused = PhysicalMemoryDescriptor64.offset_of("unused")
            block = header.physical_memory_block
            changes["physical_memory_block"] = block[:at_unused] + bytes(4) + block[at_unused + 4 :]
        if isinstance(header, DumpHeader64):
            changes["unused2"] = 0
        self._header = header.replace(**changes).pack("little")

    def headers(self) -> Iterator[Extent | Hole]:
        yield Extent(0, self._header)
        if not self._bits:
            return
        at = len(self._header)
        pages = Ranges(self.stored.array // np.uint64(PAGE_SIZE))
        summary = SummaryDump(first_page=self.start, total_present_pages=pages.size, pages=self._bits)
        yield Extent(at, summary.pack("little"))
        at += SummaryDump.nbytes()
        for first, piece in bitmap.pack(pages, self._bits):
            yield Hole(at + first, piece) if isinstance(piece, int) else Extent(at + first, piece.data.cast("B"))
        end = at + self._bits // 8
        if self.start > end:
            yield Hole(end, self.start - end)

    def encoder(self) -> WindmpEncoder:
        return WindmpEncoder(self.start, self._overlays)

    def size(self, end: int) -> int:
        return self.size_limit


def ram_pages(ram: Ranges) -> int:
    """One past the number of the last page."""
    return int(ram.array[-1, 1]) // PAGE_SIZE if len(ram) else 0


def header_runs(block: bytes, bits: int) -> Ranges:
    """The runs of RAM in a header's physical_memory_block, in paddr."""
    n_runs = min(DESCRIPTORS[bits].unpack(block, "little").number_of_runs, MAX_RUNS[bits])
    table = np.frombuffer(block, RUNS[bits].dtype("little"), n_runs, DESCRIPTORS[bits].nbytes())
    base, count = table["base_page"].astype(np.uint64), table["page_count"].astype(np.uint64)
    return Ranges.of(np.stack([base * PAGE_SIZE, (base + count) * PAGE_SIZE], axis=1).tolist())


def _memory_block(ram: Ranges, bits: int) -> bytes:
    """The physical_memory_block of a header: the runs of RAM, or how many there are where they have no room."""
    pages: NDArray[np.uint64] = ram.array // np.uint64(PAGE_SIZE)
    n_pages = int((pages[:, 1] - pages[:, 0]).sum())
    if len(ram) > MAX_RUNS[bits]:
        return DESCRIPTORS[bits](number_of_runs=UNSET, number_of_pages=n_pages).pack("little")
    table = np.zeros(len(ram), RUNS[bits].dtype("little"))
    table["base_page"], table["page_count"] = pages[:, 0], pages[:, 1] - pages[:, 0]
    return DESCRIPTORS[bits](number_of_runs=len(ram), number_of_pages=n_pages).pack("little") + table.tobytes()


def _in_stream(stored: Ranges, overlays: tuple[tuple[int, bytes], ...]) -> tuple[tuple[int, bytes], ...]:
    """Overlays by position in the stream of stored pages, without what is not stored."""
    sizes = stored.array[:, 1] - stored.array[:, 0]
    before = np.cumsum(sizes) - sizes
    found = []
    for paddr, data in overlays:
        for start, end in stored.clip(paddr, paddr + len(data)):
            i = int(np.searchsorted(stored.array[:, 0], start, side="right")) - 1
            found.append((int(before[i]) + start - int(stored.array[i, 0]), data[start - paddr : end - paddr]))
    return tuple(found)
