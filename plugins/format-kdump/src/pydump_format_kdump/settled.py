"""Finds out whether a bitmap is damaged, and which pages the descriptors are of where one is.

A descriptor does not say of which page it is: the bitmaps do. One flipped bit moves the contents of all pages behind.
It shows where pydump's index counts other bits, or where the page data does not begin where the table of descriptors
should end: QEMU, makedumpfile and pydump leave no room between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pydump.interfaces.bitmap import Bitmap
from pydump.model.memory import Ranges
from pydump_format_kdump.holdings import Holdings
from pydump_format_kdump.index import Index, count_before, read_index
from pydump_format_kdump.layout import PageDesc
from pydump_format_kdump.parts import Part
from pydump_format_kdump.table import DESCS_AT_FIRST, sound

#: More flipped bits than this are not told from a writer that leaves room between descriptors and data.
MOST: Final = 64


class RunRank:
    """Which pages have a descriptor that is known to be theirs, and how many descriptors come before a page's.

    Args:
        dumped: Pages in the order of the descriptors.
        doubtful: Pages of which it is not known whether a descriptor is theirs.
    """

    def __init__(self, dumped: Ranges, doubtful: Ranges) -> None:
        self._dumped = dumped
        self._known = dumped.subtract(doubtful)

    def __call__(self, bit: int) -> int:
        """How many descriptors are of pages before ``bit``."""
        return int(count_before(self._dumped, np.array([bit]))[0])

    def is_set(self, bits: NDArray[np.int64]) -> NDArray[np.bool]:
        """Whether each of ``bits``, which ascend, has a descriptor of its own."""
        before = count_before(self._known, np.concatenate([bits, bits + 1]))
        found: NDArray[np.bool] = before[len(bits) :] > before[: len(bits)]
        return found

    def of_set(self, bits: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many descriptors come before that of each of ``bits``."""
        return count_before(self._dumped, bits)


def settled(best: Part, parts: Sequence[Part], holdings: Holdings) -> tuple[Holdings, str]:
    """What a dump holds, corrected where a bitmap is damaged.

    Args:
        best: The part whose bitmaps were read.
        parts: All parts, with their pages counted.
        holdings: What the bitmaps say.

    Returns:
        The holdings, and what is wrong, or an empty string. Pages that nobody can tell are unknown in the holdings.
    """
    headers = best.headers
    if holdings.indexed or best.backing.size < headers.descs or any(best.backing.missing(0, headers.descs)):
        return holdings, ""
    index = read_index(best.backing, headers.bitmaps, headers.max_mapnr, headers.byte_order)
    if index is not None:
        return _by_index(index, holdings, headers.max_mapnr)
    if not any(_surplus(part) for part in parts):
        return holdings, ""
    present = Bitmap.read(best.backing, headers.bitmaps, -(-headers.max_mapnr // 8)).ranges(headers.max_mapnr)
    for dumped in (present, holdings.dumped.intersect(present)):
        rank = RunRank(dumped, Ranges.empty())
        counted = [
            replace(part, first=(first := rank(part.headers.start_pfn)), n_pages=rank(part.headers.end_pfn) - first)
            for part in parts
        ]
        if not any(_surplus(part) for part in counted):
            return _corrected(holdings, present, dumped, Ranges.empty()), "the 2nd bitmap is damaged: the 1st is used"
    found = _corrected(holdings, holdings.present, holdings.dumped, holdings.dumped)
    return found, "a bitmap is damaged: there are more or fewer descriptors than it counts, and whose they are is lost"


def _corrected(old: Holdings, present: Ranges, dumped: Ranges, doubtful: Ranges) -> Holdings:
    return Holdings(present, dumped, doubtful, RunRank(dumped, doubtful), dumped.size, old.first_paddr)


def _surplus(part: Part) -> int:
    """How many descriptors a part has more than its bitmap counts, or fewer; 0 where that does not show."""
    size, block_size, backing = PageDesc.nbytes(), part.headers.block_size, part.backing
    if part.cut or not part.n_pages:
        return 0
    dtype = PageDesc.dtype(part.headers.byte_order)
    first = np.frombuffer(backing.read(part.headers.descs, min(part.n_pages, DESCS_AT_FIRST) * size), dtype)
    offsets = first["offset"][first["offset"] > 0]
    data = int(offsets.min()) if len(offsets) else part.descs_end
    # The data of the first page begins the page data, or follows a block of zeros that later pages share.
    if part.descs_end in (data, data - block_size):
        return 0
    if data < part.descs_end:
        fewer, rest = divmod(part.descs_end - data, size)
        return -fewer if not rest and fewer <= MOST else 0
    for begin in (data, data - block_size):
        more, rest = divmod(begin - part.descs_end, size)
        if not rest and 0 < more <= MOST:
            beyond = np.frombuffer(backing.read(part.descs_end, more * size), dtype)
            if sound(beyond, begin, backing.size, block_size).all():
                return more
    return 0


def _by_index(index: Index, holdings: Holdings, n_bits: int) -> tuple[Holdings, str]:
    """What the bitmaps say where the index agrees, chunk by chunk, and what it says elsewhere."""
    edges = np.arange(-(-n_bits // index.chunk_bits) + 1) * index.chunk_bits
    stated = np.zeros(len(edges) - 1, np.int64)
    stated[index.chunks] = np.diff(np.append(index.before, index.n_dumped))
    differs = np.flatnonzero(np.diff(count_before(holdings.dumped, edges)) != stated)
    if not len(differs) and index.ram == holdings.present:
        return holdings, ""
    dumped, doubtful = holdings.dumped, Ranges.empty()
    for number in differs.tolist():
        start, stop, count = int(edges[number]), int(edges[number + 1]), int(stated[number])
        chunk, known = _chunk(index.ram.clip(start, stop), dumped.clip(start, stop), start, count)
        dumped = dumped.subtract(Ranges.of([(start, stop)])).union(chunk)
        if not known:
            doubtful = doubtful.union(index.ram.clip(start, stop))
    lost = ", which does not say which pages of some are there" if doubtful else ""
    return _corrected(holdings, index.ram, dumped, doubtful), f"a bitmap is damaged: its index is used{lost}"


def _chunk(ram: Ranges, dumped: Ranges, start: int, count: int) -> tuple[Ranges, bool]:
    """The pages of a damaged chunk that have descriptors, of which there are ``count``; and whether they are known."""
    for pages in (ram, dumped.intersect(ram)):
        if pages.size == count:
            return pages, True
    return Ranges.of([(start, start + count)]), False  # so that the pages behind them are counted right
