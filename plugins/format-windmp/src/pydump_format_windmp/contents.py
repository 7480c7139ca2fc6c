"""Where guest memory lies in a Windows crash dump: by the header's runs, by a bitmap, or by a list of ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pydump.errors import FormatError
from pydump.interfaces.bitmap import Bitmap
from pydump.interfaces.pieces import Piece, held_pieces
from pydump.layout.windows import HEADERS, UNSET, DumpHeader, header_bits
from pydump.model.memory import Ranges
from pydump_format_windmp.layout import (
    BITMAP_TYPES,
    DESCRIPTORS,
    MAX_RUNS,
    PAGE_SIZE,
    RANGE_TYPES,
    RUNS,
    SUMMARY_SIGNATURES,
    DumpType,
    RangeDump,
    SummaryDump,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pydump.interfaces.backing import Backing


#: One past the highest page: physical addresses have 52 bits.
MAX_PFN: Final = 1 << 40
#: More RAM than this is not believed, in pages: 128 TiB.
MAX_RAM: Final = 1 << 35
#: More runs than this are not believed: real RAM lies in a few dozen.
MAX_LISTED: Final = 1 << 20
#: No file is so long.
MAX_OFFSET: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file says of guest memory.

    Attributes:
        header: The bytes of its header.
        fields: The same, by field.
        bits: 64 or 32.
        kind: Which dump it is.
        pieces: What of memory the file holds, ascending and disjoint.
        ram: Where RAM lies, in paddr.
        excluded: RAM that the dump's maker left out.
        lost: RAM that the file should hold, and does not.
        cut: Whether the file ends before it states where all its memory is.
        warnings: What is missing or odd, a line each.
    """

    header: bytes
    fields: DumpHeader
    bits: int
    kind: DumpType
    pieces: list[Piece]
    ram: Ranges
    excluded: Ranges
    lost: Ranges
    cut: bool
    warnings: tuple[str, ...]


def read_contents(backing: Backing) -> Contents:
    """Read the headers of a file.

    Raises:
        FormatError: It holds no guest memory, or does not say where.
    """
    bits = header_bits(backing.read(0, min(8, backing.size)))
    if bits is None:
        raise FormatError(backing.path, "this is not the header of a Windows crash dump", offset=0)
    layout = HEADERS[bits]
    header = backing.read(0, layout.nbytes())
    fields = layout.unpack(header, "little")
    warnings: list[str] = []
    ram = _ram(fields, bits, warnings)
    kind = _kind(backing, fields)
    unknown, doubtful, cut = Ranges.empty(), Ranges.empty(), False
    if kind == DumpType.FULL:
        runs = _placed(ram, len(header))
    elif kind in BITMAP_TYPES:
        pages, first_page, unknown = _bitmap(backing, len(header), warnings)
        if not unknown:
            pages, doubtful = _settled(backing, len(header), pages, ram, first_page, warnings)
        runs = _placed(pages, first_page)
        cut = bool(unknown) and not len(ram)
    else:
        pages, first_page, cut = _ranges(backing, len(header), warnings)
        runs = _placed(pages, first_page)
    pieces, lost = held_pieces(backing, runs.tolist())
    held = Ranges.of((start, end) for start, end, _ in pieces)
    wanted = held.union(lost)
    if wanted.size < int(runs[:, 2].sum()):
        warnings.append("runs of RAM overlap: where they do, the one that begins first is read")
    if lost:
        why = "; ".join(backing.warnings) or f"the file ends at {backing.size:#x}"
        warnings.append(f"{why}: {lost.size} bytes of guest memory are lost")
    elif backing.warnings:
        warnings += backing.warnings
    listed = Ranges.of((start * PAGE_SIZE, end * PAGE_SIZE) for start, end in ram.tolist())
    lost = lost.union(unknown.intersect(listed)).union(doubtful)
    every = listed.union(wanted).union(doubtful)
    excluded = every.subtract(held).subtract(lost)
    return Contents(header, fields, bits, kind, pieces, every, excluded, lost, cut, tuple(warnings))


def _kind(backing: Backing, fields: DumpHeader) -> DumpType:
    """Which dump it is; a header that does not say so is followed by all of RAM, as QEMU writes it."""
    number = fields.dump_type
    if number in (0, UNSET):
        return DumpType.FULL
    if number in (DumpType.HEADER, DumpType.TRIAGE):
        raise FormatError(backing.path, "this minidump holds no guest memory", hint="WinDbg reads it")
    if number not in (DumpType.FULL, *BITMAP_TYPES, *RANGE_TYPES):
        raise FormatError(
            backing.path, f"the dump type {number} is not known", offset=type(fields).offset_of("dump_type")
        )
    return DumpType(number)


def _ram(fields: DumpHeader, bits: int, warnings: list[str]) -> NDArray[np.int64]:
    """Where RAM lies by the header: rows of first page and one past the last, shape (n, 2), in the header's order."""
    block = fields.physical_memory_block
    descriptor = DESCRIPTORS[bits].unpack(block, "little")
    n_runs = descriptor.number_of_runs
    if n_runs == UNSET:
        return np.empty((0, 2), np.int64)
    if n_runs > MAX_RUNS[bits]:
        warnings.append(
            f"the header says that RAM has {n_runs} runs, and has room for {MAX_RUNS[bits]}: those are read"
        )
        n_runs = MAX_RUNS[bits]
    table = np.frombuffer(block, RUNS[bits].dtype("little"), n_runs, DESCRIPTORS[bits].nbytes())
    return _believed(table["base_page"].astype(np.uint64), table["page_count"].astype(np.uint64), warnings)


def _believed(base: NDArray[np.uint64], count: NDArray[np.uint64], warnings: list[str]) -> NDArray[np.int64]:
    """Runs of pages up to the first that cannot be true: where the pages behind that one lie, nobody knows."""
    last = np.uint64(MAX_PFN)
    good = (base < last) & (count <= np.uint64(MAX_RAM)) & (base + np.minimum(count, last) <= last)
    good &= np.cumsum(np.minimum(count, last).astype(np.float64)) <= MAX_RAM
    if not good.all():
        bad = int(np.flatnonzero(~good)[0])
        warnings.append(
            f"run {bad} of RAM claims {int(count[bad]):#x} pages from page {int(base[bad]):#x} on: "
            "it and what follows are not read"
        )
        base, count = base[:bad], count[:bad]
    rows = np.stack([base, base + count], axis=1).astype(np.int64)
    return rows[rows[:, 1] > rows[:, 0]]


def _bitmap(backing: Backing, at: int, warnings: list[str]) -> tuple[NDArray[np.int64], int, Ranges]:
    """The pages of a bitmap dump, shape (n, 2), where the first lies, and what the file does not say of, in paddr."""
    summary = SummaryDump.unpack(backing.read(at, SummaryDump.nbytes()), "little")
    if summary.signature not in SUMMARY_SIGNATURES:
        raise FormatError(backing.path, "the bitmap's header is damaged", offset=at)
    start = at + SummaryDump.nbytes()
    n_bits, first_page = summary.pages, min(summary.first_page, MAX_OFFSET)
    if first_page < start:
        raise FormatError(backing.path, f"the first page lies at {first_page:#x}, within the headers", offset=at)
    room = (first_page - start) * 8
    if n_bits > min(room, MAX_PFN):
        warnings.append(f"the bitmap claims {n_bits} pages, and has room for {room}")
        n_bits = min(room, MAX_PFN)
    size = -(-n_bits // 8)
    pages = Bitmap.read(backing, start, size).ranges(n_bits)
    if len(pages) > MAX_LISTED:
        raise FormatError(backing.path, f"the bitmap has {len(pages)} runs of pages", offset=start)
    missing = [((a - start) * 8 * PAGE_SIZE, (b - start) * 8 * PAGE_SIZE) for a, b in backing.missing(start, size)]
    if missing:
        warnings.append(
            f"the file ends at {backing.size:#x}, within the bitmap: which pages it should hold is not known"
        )
    elif pages.size != summary.total_present_pages:
        warnings.append(
            f"the header says that {summary.total_present_pages} pages are present, the bitmap {pages.size}"
        )
    return pages.array.astype(np.int64), first_page, Ranges.of(missing)


def _settled(
    backing: Backing, at: int, pages: NDArray[np.int64], ram: NDArray[np.int64], first_page: int, warnings: list[str]
) -> tuple[NDArray[np.int64], Ranges]:
    """The pages of a bitmap dump, where a bit was flipped those that it must mean; and what nobody can tell, in paddr.

    Pages follow each other in the order of the bits: a flipped one gives those behind it the contents of others. It
    shows where the file holds as many pages as its header says, and the bitmap another number.
    """
    stated = SummaryDump.unpack(backing.read(at, SummaryDump.nbytes()), "little").total_present_pages
    if int((pages[:, 1] - pages[:, 0]).sum()) == stated or backing.size != first_page + stated * PAGE_SIZE:
        return pages, Ranges.empty()
    by_bits, by_runs = (Ranges.of((start, end) for start, end in rows.tolist()) for rows in (pages, ram))
    for found in (by_runs, by_bits.intersect(by_runs)):
        if found.size == stated:
            warnings.append("the bitmap is damaged: the runs of RAM in the header are used")
            return found.array.astype(np.int64), Ranges.empty()
    lost = Ranges.of((start * PAGE_SIZE, end * PAGE_SIZE) for start, end in pages.tolist())
    warnings.append(f"the bitmap is damaged: which page is whose is lost, {lost.size} bytes are unreadable")
    return pages[:0], lost


def _ranges(backing: Backing, at: int, warnings: list[str]) -> tuple[NDArray[np.int64], int, bool]:
    """The pages of a kernel or complete dump, shape (n, 2), where the first lies, and whether the list is cut off."""
    head = RangeDump.unpack(backing.read(at, RangeDump.nbytes()), "little")
    if head.signature != RangeDump().signature:
        raise FormatError(backing.path, "the header of the list of pages is damaged", offset=at)
    start = at + RangeDump.nbytes()
    dtype = RUNS[64].dtype("little")
    if head.first_page < start:
        raise FormatError(backing.path, f"the first page lies at {head.first_page:#x}, within the headers", offset=at)
    room = (min(head.first_page, backing.size) - start) // dtype.itemsize
    if room > MAX_LISTED:
        warnings.append(f"there is room for {room} runs of pages: {MAX_LISTED} are read")
    table: NDArray[Any] = np.frombuffer(backing.read(start, max(0, min(room, MAX_LISTED)) * dtype.itemsize), dtype)
    ends = np.flatnonzero(table["base_page"] == 0)
    cut = not len(ends) and head.first_page > backing.size
    if len(ends):
        table = table[: ends[0]]
    elif cut:
        warnings.append(f"the file ends at {backing.size:#x}, within the list of its pages")
    return _believed(table["base_page"], table["page_count"], warnings), min(head.first_page, MAX_OFFSET), cut


def _placed(pages: NDArray[np.int64], first: int) -> NDArray[np.int64]:
    """Paddr, file offset and size of runs of pages that follow each other in the file from offset ``first`` on."""
    sizes = (pages[:, 1] - pages[:, 0]) * PAGE_SIZE
    return np.column_stack([pages[:, 0] * PAGE_SIZE, first + np.cumsum(sizes) - sizes, sizes])
