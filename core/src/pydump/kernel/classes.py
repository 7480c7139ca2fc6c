"""Sorts all pages of a Linux guest into classes: reads the struct pages in bulk and keeps ranges of each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pydump.kernel.memory import KernelMemory
from pydump.kernel.pages import Candidates, Classifier, PageClass, PageRules
from pydump.kernel.vmemmap import StructPages
from pydump.model.memory import Ranges

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Struct pages that are read and looked at together: 64 Ki are four times as fast per page as 4 Ki.
CHUNK: Final = 1 << 16
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
    """
    classifier = Classifier(rules)
    parts: list[Candidates] = []
    n_pages = n_unreadable = 0
    buffer = bytearray((CHUNK + 1) * rules.size)
    for place in places:
        for pfn in range(place.pfn, place.pfn + place.count, CHUNK):
            count = min(CHUNK, place.pfn + place.count - pfn)
            # One more than are looked at: a compound page says its order in the second struct page.
            more = pfn + count < place.pfn + place.count
            view = memoryview(buffer)[: (count + more) * rules.size]
            valid = _read(kernel, place.vaddr + (pfn - place.pfn) * rules.size, view, rules.size)
            n_pages += count
            if valid is not None:
                n_unreadable += count - int(valid[:count].sum())
                if not valid.any():
                    continue
            parts.append(classifier.classify(pfn, view, count, valid))
    return _gather(parts, kernel.page_size, ram, n_pages, n_unreadable)


def _read(kernel: KernelMemory, vaddr: int, buffer: memoryview, size: int) -> NDArray[np.bool] | None:
    """Fill ``buffer`` from ``vaddr`` on; which of the structs of ``size`` bytes were read, or None for all of them."""
    import numpy as np

    at = vaddr
    gaps: list[tuple[int, int]] = []
    for start, end, paddr in kernel.held(vaddr, len(buffer)):
        if start > at:
            gaps.append((at, start))
        kernel.physical.read_into(paddr, buffer[start - vaddr : end - vaddr])
        at = end
    if at < vaddr + len(buffer):
        gaps.append((at, vaddr + len(buffer)))
    if not gaps:
        return None
    valid = np.ones(len(buffer) // size, np.bool)
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
