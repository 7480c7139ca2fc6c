"""Sorts all pages of a Linux guest into classes: reads the struct pages in bulk and keeps ranges of each class."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from pydump.errors import DamagedPageError, PlanError
from pydump.kernel.memory import KernelMemory
from pydump.kernel.pages import Candidates, Classifier, PageClass, PageRules
from pydump.kernel.vmemmap import StructPages
from pydump.model.memory import Ranges

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Struct pages that are read and looked at together: 64 Ki are four times as fast per page as 4 Ki.
CHUNK: Final = 1 << 16
#: Struct pages whose page tables are walked together.
WALKED: Final = CHUNK << 8
#: A range in more pieces than this is read without asking whether all of it is a hole.
FEW: Final = 16
#: Page tables may map one page of struct pages many times, as for hugetlb pages. All struct pages together have at
#: most this many times the data that the source holds, or this many bytes.
MAX_ALIASES, LEAST_BUDGET = 64, 64 << 20
#: Orders above this do not exist: a page of 16 GiB is 2**22 pages of 4 KiB.
MAX_ORDER: Final = 30


@dataclass(frozen=True, slots=True)
class Classes:
    """The pages of a guest by class.

    A page can be in several classes; leaving out a class leaves out all of its pages.

    Attributes:
        ranges: The pages of each class, as ranges of paddr in RAM.
        n_pages: Struct pages that were looked at.
        n_free: Pages in free blocks, whether they are RAM that the source holds or not.
        n_unreadable: Struct pages that could not be read; their pages are in no class.
        n_odd: Pages that look like a class and whose order, alignment or place cannot be; they are in no class.
    """

    ranges: Mapping[PageClass, Ranges] = field(default_factory=dict)
    n_pages: int = 0
    n_free: int = 0
    n_unreadable: int = 0
    n_odd: int = 0

    def of(self, wanted: PageClass) -> Ranges:
        """The pages of all classes in ``wanted``."""
        found = Ranges.empty()
        for kind, ranges in self.ranges.items():
            if kind & wanted:
                found = found.union(ranges)
        return found


def classify(kernel: KernelMemory, rules: PageRules, places: tuple[StructPages, ...], ram: Ranges) -> Classes:
    """Read all struct pages of a guest.

    Args:
        kernel: The guest kernel's memory.
        rules: How its struct pages are read.
        places: Where they lie.
        ram: The guest's RAM; only pages whose first byte is RAM are looked at.

    Returns:
        The pages by class. A struct page that cannot be read puts its page into none.

    Raises:
        PlanError: The struct pages have more data than the source.
    """
    classifier = Classifier(rules)
    parts: list[Candidates] = []
    n_pages = n_unreadable = 0
    buffer = bytearray((CHUNK + 1) * rules.size)
    n_read = 0
    for place, pfn, count, pieces in _chunks(kernel, places, rules.size):
        # One more than are looked at: a compound page says its order in the second struct page.
        more = pfn + count < place.pfn + place.count
        view = memoryview(buffer)[: (count + more) * rules.size]
        vaddr = place.vaddr + (pfn - place.pfn) * rules.size
        n_pages += count
        if not _may_hold_data(kernel, pieces):  # a struct page of zeros is in no class
            valid = _valid(pieces, vaddr, len(view), rules.size)
            n_unreadable += 0 if valid is None else count - int(valid[:count].sum())
            continue
        n_read += len(view)
        if n_read > LEAST_BUDGET and n_read > MAX_ALIASES * kernel.physical.data_size:
            raise PlanError(
                "the struct pages have more data than the guest's memory",
                hint="the guest's page tables are damaged, or made to map the same memory again and again",
            )
        read = [piece for whole in pieces for piece in _read(kernel, whole, view, vaddr)]
        valid = _valid(read, vaddr, len(view), rules.size)
        n_unreadable += 0 if valid is None else count - int(valid[:count].sum())
        parts.append(classifier.classify(pfn, view, count, valid))
    return _gather(parts, kernel.page_size, ram, n_pages, n_unreadable)


def _chunks(
    kernel: KernelMemory, places: tuple[StructPages, ...], size: int
) -> Iterator[tuple[StructPages, int, int, list[tuple[int, int, int]]]]:
    """Each chunk of a place: its first pfn, how many struct pages it has, and ``(start, end, paddr)`` of what is held.

    What is held reaches to the end of one struct page more, where the place has one.
    """
    for place in places:
        end_pfn = place.pfn + place.count
        for first in range(place.pfn, end_pfn, WALKED):
            last = min(first + WALKED, end_pfn)
            at = place.vaddr + (first - place.pfn) * size
            held = list(kernel.held(at, (min(last + 1, end_pfn) - first) * size))
            for pfn in range(first, last, CHUNK):
                count = min(CHUNK, last - pfn)
                start = place.vaddr + (pfn - place.pfn) * size
                end = start + min(count + 1, end_pfn - pfn) * size
                i = bisect_right(held, start, key=lambda piece: piece[1])
                pieces = []
                while i < len(held) and held[i][0] < end:
                    low, high = max(held[i][0], start), min(held[i][1], end)
                    pieces.append((low, high, held[i][2] + low - held[i][0]))
                    i += 1
                yield place, pfn, count, pieces


def _read(
    kernel: KernelMemory, piece: tuple[int, int, int], buffer: memoryview, vaddr: int
) -> list[tuple[int, int, int]]:
    """Read a piece to its place in ``buffer``, which begins at ``vaddr``; gives the parts that are not damaged."""
    start, end, paddr = piece
    try:
        kernel.physical.read_into(paddr, buffer[start - vaddr : end - vaddr])
    except DamagedPageError:
        page = kernel.page_size
        if paddr // page == (paddr + end - start - 1) // page:
            return []
        cuts = [paddr, *range((paddr // page + 1) * page, paddr + end - start, page), paddr + end - start]
        parts = ((start + a - paddr, start + b - paddr, a) for a, b in pairwise(cuts))
        return [found for part in parts for found in _read(kernel, part, buffer, vaddr)]
    return [piece]


def _may_hold_data(kernel: KernelMemory, pieces: list[tuple[int, int, int]]) -> bool:
    if len(pieces) > FEW:
        return True
    return any(True for start, end, paddr in pieces for _ in kernel.physical.data(paddr, end - start))


def _valid(pieces: list[tuple[int, int, int]], vaddr: int, n_bytes: int, size: int) -> NDArray[np.bool] | None:
    """Which structs of ``size`` bytes from ``vaddr`` on are held whole, or None for all of them."""
    import numpy as np

    at = vaddr
    gaps: list[tuple[int, int]] = []
    for start, end, _ in pieces:
        if start > at:
            gaps.append((at, start))
        at = end
    if at < vaddr + n_bytes:
        gaps.append((at, vaddr + n_bytes))
    if not gaps:
        return None
    valid = np.ones(n_bytes // size, np.bool)
    for start, end in gaps:
        valid[(start - vaddr) // size : -(-(end - vaddr) // size)] = False
    return valid


def _gather(parts: list[Candidates], page_size: int, ram: Ranges, n_pages: int, n_unreadable: int) -> Classes:
    import numpy as np

    if not parts:
        return Classes(n_pages=n_pages, n_unreadable=n_unreadable)
    pfn = np.concatenate([part.pfn for part in parts])
    classes = np.concatenate([part.classes for part in parts])
    is_block = classes & np.uint8(PageClass.FREE | PageClass.UNACCEPTED) != 0
    compound = np.concatenate([part.compound_order for part in parts])
    order = np.where(is_block, np.concatenate([part.block_order for part in parts]), compound)
    odd = order > MAX_ORDER
    end = pfn + (np.uint64(1) << np.minimum(order, MAX_ORDER).astype(np.uint64))
    # What begins in the run of another goes with it, such as the fake heads of hugetlb pages whose struct pages are
    # mapped again (Linux 5.18 to 7.0). One that would reach further is not believed.
    reached = np.maximum.accumulate(np.where(odd, np.uint64(0), end))
    inside = np.zeros(len(pfn), np.bool)
    inside[1:] = pfn[1:] < reached[:-1]
    odd[1:] |= inside[1:] & (end[1:] > reached[:-1])
    n_odd = int(np.count_nonzero(odd)) + sum(part.odd for part in parts)
    kept = ~odd & ~inside & _in(ram, pfn * np.uint64(page_size))
    pfn, end, classes = pfn[kept], end[kept], classes[kept]
    is_free = classes & np.uint8(PageClass.FREE) != 0
    n_free = int((end[is_free] - pfn[is_free]).sum())
    ranges = {}
    for kind in PageClass:
        chosen = classes & np.uint8(kind) != 0
        runs = np.stack([pfn[chosen], end[chosen]], axis=1) * np.uint64(page_size)
        ranges[kind] = Ranges.of_array(runs).intersect(ram)
    return Classes(ranges, n_pages, n_free, n_unreadable, n_odd)


def _in(ranges: Ranges, paddr: NDArray[np.uint64]) -> NDArray[np.bool]:
    """Which addresses lie in ``ranges``."""
    import numpy as np

    if not ranges:
        return np.zeros(len(paddr), np.bool)
    i = np.searchsorted(ranges.array[:, 0], paddr, side="right")
    found: NDArray[np.bool] = (i > 0) & (paddr < ranges.array[np.maximum(i, 1) - 1, 1])
    return found
