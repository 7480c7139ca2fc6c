"""Reads the pages of a dump: raw or compressed, many at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pydump.errors import CompressionError, DamagedPageError
from pydump.interfaces.backing import Backing
from pydump.interfaces.compressor import Compressor
from pydump.interfaces.format import Decompressors
from pydump.interfaces.image import Place, StoredPages
from pydump.layout.zero import zero_pages
from pydump.model.memory import Ranges
from pydump_format_kdump.holdings import Holdings
from pydump_format_kdump.layout import COMPRESSION_FLAGS
from pydump_format_kdump.parts import Part
from pydump_format_kdump.table import CODEC_NAMES, DescTable

#: Guest memory that is read in one go is at most this long, and so, or little more, is the page data it takes.
READ_AT_ONCE: Final = 8 << 20
#: Pages that are looked up in one go.
LOOKED_AT_ONCE: Final = 1 << 17
#: Bytes of the file that are read although nobody wants them, where that saves a read.
MAX_GAP: Final = 4096
#: Pages that are kept decompressed, because many descriptors share their data.
MAX_KEPT: Final = 16


class Pages:
    """The pages of a dump, by their pfns.

    Args:
        parts: Its files.
        holdings: What they hold.
        compressor: Gives the compressor of a name.
    """

    def __init__(self, parts: Sequence[Part], holdings: Holdings, compressor: Decompressors) -> None:
        self._parts = [(part, DescTable(part)) for part in parts]
        self._holdings = holdings
        self._rank = holdings.rank
        self._compressor = compressor
        self._codecs: dict[int, Compressor] = {}
        self._block_size = parts[0].headers.block_size
        self._kept: OrderedDict[tuple[Backing, int, int, int], bytes] = OrderedDict()

    @cached_property
    def lost(self) -> Ranges:
        """Pages that should be there and are not: of all descriptors, those that lead nowhere."""
        dumped, held = self._holdings.dumped, self._spans
        pfns = self._pfns(np.concatenate([table.lost() + part.first for part, table in self._parts]))
        return _runs(pfns).union(dumped.subtract(held)).union(self._holdings.unknown)

    @property
    def n_lost(self) -> int:
        """How many pages those are; the bitmaps are not read whole for it."""
        rank, (first, *_) = self._rank, (part.headers for part, _ in self._parts)
        gaps = Ranges.of([(0, first.max_mapnr)]).subtract(self._spans)
        elsewhere = sum(rank(end) - rank(start) for start, end in gaps)
        return sum(len(table.lost()) for _, table in self._parts) + elsewhere + self._holdings.unknown.size

    @property
    def _spans(self) -> Ranges:
        """The pfns whose pages the parts hold."""
        return Ranges.of((part.headers.start_pfn, part.headers.end_pfn) for part, _ in self._parts)

    def absent(self, first: int, last: int) -> tuple[Ranges, Ranges]:
        """Of the pages ``[first, last)`` those that were left out, and those that are lost."""
        dumped, lost = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for at in range(first, last, LOOKED_AT_ONCE):
            pfns = np.arange(at, min(last, at + LOOKED_AT_ONCE))
            pfns = pfns[self._rank.is_set(pfns)]
            dumped.append(pfns)
            led = np.zeros(len(pfns), bool)
            for part, table, start, stop in self._by_part(pfns):
                led[start:stop] = table.read(self._rank.of_set(pfns[start:stop]) - part.first)[0] > 0
            lost.append(pfns[~led])
        held, gone = (_runs(np.concatenate(found)) for found in (dumped, lost))
        unknown = self._holdings.unknown.clip(first, last)
        excluded = self._holdings.present.clip(first, last).subtract(held).subtract(unknown)
        return excluded, gone.union(unknown)

    def _pfns(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The pfns of dumped pages, by their numbers among all of them."""
        if not len(numbers):
            return numbers
        starts, ends = self._holdings.dumped.array.astype(np.int64).T
        before = np.cumsum(ends - starts) - (ends - starts)
        which = np.searchsorted(before, numbers, "right") - 1
        pfns: NDArray[np.int64] = starts[which] + numbers - before[which]
        return pfns

    def why_lost(self) -> str:
        """What is wrong with the first descriptor that leads nowhere; empty where none does."""
        for part, table in self._parts:
            numbers = table.lost()[:1]
            if len(numbers):
                (pfn,) = self._pfns(numbers + part.first).tolist()
                return f"the descriptor of pfn {pfn:#x} leads nowhere: {table.why(int(numbers[0]))}"
        return ""

    def is_cut(self, part: Part) -> bool:
        """Whether pages at the end of a part are lost; quicker than :attr:`lost`."""
        return next(table.is_cut() for one, table in self._parts if one is part)

    def codec_names(self) -> tuple[str, ...]:
        """What the first pages are compressed with."""
        flags = {flag for _, table in self._parts for flag in table.flags()}
        return tuple(name for flag, name in CODEC_NAMES.items() if flag in flags)

    def read(self, wanted: NDArray[np.int64], buffer: memoryview) -> None:
        """Fill ``buffer`` with pages, in ascending order of their pfns; those that are not in the dump are zero."""
        if not len(wanted):
            return
        rows = np.flatnonzero(self._rank.is_set(wanted))
        pfns = wanted[rows]
        step = max(1, READ_AT_ONCE // self._block_size)
        spans = list(self._by_part(pfns))
        held = sum(last - first for *_, first, last in spans)
        if held < len(wanted):
            np.frombuffer(buffer, np.uint8)[:] = 0
        for part, table, first, last in spans:
            for at in range(first, last, step):
                some = slice(at, min(last, at + step))
                self._read_part(part, table, pfns[some], rows[some], buffer)

    def place(self, pfn: int) -> Place | None:
        """Where a page is stored, or None where it is not."""
        pfns = np.array([pfn], np.int64)
        if not self._rank.is_set(pfns)[0]:
            return None
        for part, table, _, _ in self._by_part(pfns):
            offsets, sizes, flags = table.read(self._rank.of_set(pfns) - part.first)
            if offsets[0]:
                codec = CODEC_NAMES.get(int(flags[0]), "none")
                return Place(part.backing.path, int(offsets[0]), int(sizes[0]), codec)
        return None

    def _by_part(self, pfns: NDArray[np.int64]) -> Iterator[tuple[Part, DescTable, int, int]]:
        """The parts that hold ``pfns``, each with ``[first, last)`` of those it holds."""
        for part, table in self._parts:
            first, last = np.searchsorted(pfns, (part.headers.start_pfn, part.headers.end_pfn)).tolist()
            if last > first:
                yield part, table, first, last

    def _read_part(
        self, part: Part, table: DescTable, pfns: NDArray[np.int64], rows: NDArray[np.int64], buffer: memoryview
    ) -> None:
        """Read pages of one part, each to its row of ``buffer``."""
        offsets, sizes, flags = table.read(self._rank.of_set(pfns) - part.first)
        places = rows * self._block_size
        # Pages that share their data (zero pages do, by the thousand) are read once, then copied. Only descriptors
        # that say the same of it share it: each other one is read as it says, and so found out where it lies.
        own, owner = _distinct(offsets, sizes, flags)
        of = own[owner]
        shared = np.flatnonzero(of != np.arange(len(of)))
        is_shared = np.zeros(len(of), bool)
        is_shared[of[shared]] = True
        for flag in sorted(set(flags[own].tolist())):  # np.unique loads numpy.ma, 6 ms
            some = own[(flags[own] == flag) & (offsets[own] > 0)]
            if flag == 0 and len(some):
                self._read_raw(part, offsets[some], places[some], buffer)
            elif len(some):
                often = some[is_shared[some]]
                for i in often.tolist():
                    page = self._shared_page(part, flag, int(pfns[i]), int(offsets[i]), int(sizes[i]))
                    buffer[places[i] : places[i] + self._block_size] = page
                once = some[~is_shared[some]] if len(often) else some
                self._read_compressed(part, flag, pfns[once], offsets[once], sizes[once], places[once], buffer)
        pages = np.frombuffer(buffer, np.uint8).reshape(-1, self._block_size)
        lost = rows[np.flatnonzero(offsets == 0)]
        if len(lost):
            pages[lost] = 0
        for at in range(0, len(shared), 256):  # picking rows copies them
            some = shared[at : at + 256]
            pages[rows[some]] = pages[rows[of[some]]]

    def _read_raw(self, part: Part, offsets: NDArray[np.int64], places: NDArray[np.int64], buffer: memoryview) -> None:
        """Read pages that are stored as they are, in ascending order of offset, into their places in ``buffer``."""
        block_size = self._block_size
        breaks = np.flatnonzero((np.diff(offsets) != block_size) | (np.diff(places) != block_size)) + 1
        starts = np.concatenate([[0], breaks])
        lengths = np.diff(np.append(starts, len(offsets))) * block_size
        for offset, place, length in zip(
            offsets[starts].tolist(), places[starts].tolist(), lengths.tolist(), strict=True
        ):
            part.backing.read_into(offset, buffer[place : place + length])

    def _read_compressed(
        self,
        part: Part,
        flag: int,
        pfns: NDArray[np.int64],
        offsets: NDArray[np.int64],
        sizes: NDArray[np.int64],
        places: NDArray[np.int64],
        buffer: memoryview,
    ) -> None:
        """Decompress pages, in ascending order of offset, into their places in ``buffer``."""
        block_size = self._block_size
        decompress = self._codec(flag).decompress
        ends = offsets + sizes
        breaks = np.flatnonzero(offsets[1:] > np.maximum.accumulate(ends)[:-1] + MAX_GAP) + 1
        for group in np.split(np.arange(len(offsets)), breaks):
            if not len(group):
                continue
            start = int(offsets[group[0]])
            size = int(ends[group].max()) - start
            data = memoryview(bytearray(size))
            part.backing.read_into(start, data)
            done = 0
            try:
                for begin, end, place in zip(
                    (offsets[group] - start).tolist(),
                    (ends[group] - start).tolist(),
                    places[group].tolist(),
                    strict=True,
                ):
                    buffer[place : place + block_size] = decompress(data[begin:end], block_size)
                    done += 1
            except CompressionError as error:
                raise self._damaged(int(pfns[group[done]]), error) from error

    def _shared_page(self, part: Part, flag: int, pfn: int, offset: int, size: int) -> bytes:
        """A page whose data many descriptors share: it is decompressed once, not once for each batch that has it."""
        key = part.backing, flag, offset, size
        page = self._kept.pop(key, None)
        if page is None:
            try:
                page = self._codec(flag).decompress(part.backing.read(offset, size), self._block_size)
            except CompressionError as error:
                raise self._damaged(pfn, error) from error
        self._kept[key] = page
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return page

    def _damaged(self, pfn: int, error: CompressionError) -> DamagedPageError:
        paddr = self._holdings.first_paddr + pfn * self._block_size
        return DamagedPageError(paddr, self._block_size, f"its page does not decompress: {error.message}")

    def _codec(self, flag: int) -> Compressor:
        """What decompresses the pages with ``flag``."""
        codec = self._codecs.get(flag)
        if codec is None:
            codec = self._codecs[flag] = self._compressor(CODEC_NAMES[flag])
        return codec

    def stored(self, pfns: NDArray[np.int64], compression: str) -> StoredPages | None:
        """Pages as the file holds them, where all are there, and raw or compressed with ``compression``."""
        block_size = self._block_size
        flag = int(COMPRESSION_FLAGS[compression]) if compression != "none" else 0
        spans = list(self._by_part(pfns))
        if sum(last - first for *_, first, last in spans) < len(pfns) or not self._rank.is_set(pfns).all():
            return None
        all_sizes, all_flags = [], []
        payload: list[bytes] = []
        for part, table, first, last in spans:
            offsets, sizes, flags = table.read(self._rank.of_set(pfns[first:last]) - part.first)
            if not np.isin(flags, (0, flag)).all() or not offsets.all():
                return None
            # No writer has these: reading them tells what is wrong.
            if ((sizes == block_size) != (flags == 0)).any():
                return None
            # Zero pages are stored raw, and share one block.
            raw = np.flatnonzero(flags == 0)
            unique, where = np.unique(offsets[raw], return_inverse=True)
            blocks = b"".join(_slices(part.backing, unique, np.full(len(unique), block_size)))
            sizes[raw[zero_pages(blocks, block_size)[where]]] = 0
            payload += _slices(part.backing, offsets[sizes > 0], sizes[sizes > 0])
            all_sizes.append(sizes)
            all_flags.append(flags)
        return StoredPages(np.concatenate(all_sizes), np.concatenate(all_flags) != 0, b"".join(payload))


def _runs(pfns: NDArray[np.int64]) -> Ranges:
    """Ascending pfns as ranges."""
    return Ranges.of_array(np.stack([pfns, pfns + 1], axis=1))


def _distinct(*columns: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The first of each set of equal rows, ascending in the first column, and for each row which of them it equals."""
    order = np.lexsort(columns[::-1])
    starts = np.ones(len(order), bool)
    starts[1:] = np.any([np.diff(column[order]) != 0 for column in columns], axis=0)
    owner = np.empty(len(order), np.intp)
    owner[order] = np.cumsum(starts) - 1
    return order[starts], owner


def _slices(backing: Backing, offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> Iterator[bytes]:
    """The bytes of pages in turn, read in as few pieces as their order allows."""
    if not len(offsets):
        return
    breaks = np.flatnonzero(offsets[1:] != (offsets + sizes)[:-1]) + 1
    for piece in np.split(np.arange(len(offsets)), breaks):
        start = int(offsets[piece[0]])
        yield backing.read(start, int(offsets[piece[-1]] + sizes[piece[-1]]) - start)
