"""Where guest RAM lies: :class:`RamBlock`, :class:`MemoryMap`, and :class:`Ranges` for sets of many ranges.

All ranges are half-open, in bytes of guest-physical address.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: One past the highest guest-physical address any architecture can have.
PADDR_END = 1 << 64

#: The highest end a range of :class:`Ranges` can have.
_LAST = PADDR_END - 1


@dataclass(frozen=True, slots=True, order=True)
class RamBlock:
    """A run of guest RAM that is contiguous in paddr.

    Attributes:
        paddr: Guest-physical address of its first byte.
        size: Bytes, at least 1.
    """

    paddr: int
    size: int

    def __post_init__(self) -> None:
        if self.paddr < 0 or self.size <= 0 or self.paddr + self.size > PADDR_END:
            raise ValueError(f"no such RAM block: paddr {self.paddr:#x}, size {self.size:#x}")

    @property
    def end(self) -> int:
        """One past its last byte."""
        return self.paddr + self.size


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """All guest RAM: blocks in ascending paddr that do not overlap (two may touch).

    Raises:
        ValueError: The blocks are out of order or overlap.
    """

    blocks: tuple[RamBlock, ...] = ()

    def __post_init__(self) -> None:
        for left, right in zip(self.blocks, self.blocks[1:], strict=False):
            if left.end > right.paddr:
                raise ValueError(
                    f"RAM blocks overlap or are out of order: {left.paddr:#x}..{left.end:#x} and {right.paddr:#x}"
                )

    @classmethod
    def of(cls, ranges: Iterable[tuple[int, int]]) -> MemoryMap:
        """A map of ``(paddr, size)`` pairs in any order; empty ones are left out."""
        return cls(tuple(sorted(RamBlock(paddr, size) for paddr, size in ranges if size)))

    def __iter__(self) -> Iterator[RamBlock]:
        return iter(self.blocks)

    def __len__(self) -> int:
        return len(self.blocks)

    def __bool__(self) -> bool:
        return bool(self.blocks)

    @property
    def size(self) -> int:
        """Bytes of RAM."""
        return sum(block.size for block in self.blocks)

    @property
    def start(self) -> int:
        """The lowest paddr, or 0 when there is no RAM."""
        return self.blocks[0].paddr if self.blocks else 0

    @property
    def end(self) -> int:
        """One past the highest paddr, or 0 when there is no RAM."""
        return self.blocks[-1].end if self.blocks else 0

    def max_mapnr(self, page_size: int) -> int:
        """One past the last pfn that holds RAM, counting a last partial page."""
        return -(-self.end // page_size)

    def find(self, paddr: int) -> RamBlock | None:
        """The block that holds ``paddr``, or None."""
        i = bisect_right(self.blocks, paddr, key=lambda block: block.paddr)
        return self.blocks[i - 1] if i and paddr < self.blocks[i - 1].end else None

    def clip(self, begin: int, length: int) -> MemoryMap:
        """What of this map lies in ``[begin, begin + length)``."""
        end = begin + length
        return MemoryMap(
            tuple(
                RamBlock(max(b.paddr, begin), min(b.end, end) - max(b.paddr, begin))
                for b in self.blocks
                if max(b.paddr, begin) < min(b.end, end)
            )
        )

    def ranges(self) -> Ranges:
        """The same as :class:`Ranges`, touching blocks joined."""
        return Ranges.of((b.paddr, b.end) for b in self.blocks)


class Ranges:
    """A sorted set of disjoint half-open ranges, as a NumPy array of shape (n, 2), dtype uint64.

    Made for sets of millions of ranges (what a filtered dump leaves out), where objects would not fit. The last byte
    of a 64-bit address space cannot be in a set, for its end does not fit; no dump format can express it either.
    """

    __slots__ = ("array",)

    def __init__(self, array: NDArray[np.uint64]) -> None:
        self.array = array

    @classmethod
    def of(cls, ranges: Iterable[tuple[int, int]]) -> Ranges:
        """From ``(start, end)`` pairs in any order; overlapping and touching ones are joined."""
        import numpy as np

        array = np.array(sorted((s, min(e, _LAST)) for s, e in ranges if min(e, _LAST) > s), dtype=np.uint64)
        return cls(_joined(array.reshape(-1, 2)))

    @classmethod
    def of_array(cls, array: NDArray[Any]) -> Ranges:
        """From an array of shape (n, 2), ascending in its starts; overlapping and touching ranges are joined."""
        import numpy as np

        return cls(_joined(array.astype(np.uint64, copy=False)))

    @classmethod
    def empty(cls) -> Ranges:
        """No range at all."""
        return cls.of(())

    def __len__(self) -> int:
        return len(self.array)

    def __bool__(self) -> bool:
        return len(self.array) > 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The ``(start, end)`` pairs as Python ints."""
        for chunk in range(0, len(self.array), 4096):
            yield from map(tuple, self.array[chunk : chunk + 4096].tolist())

    def __eq__(self, other: object) -> bool:
        import numpy as np

        return isinstance(other, Ranges) and bool(np.array_equal(self.array, other.array))

    def __hash__(self) -> int:
        return hash(self.array.tobytes())

    def __repr__(self) -> str:
        shown = ", ".join(f"{s:#x}..{e:#x}" for s, e in self.array[:4].tolist())
        return f"Ranges({shown}{', …' if len(self) > 4 else ''})"

    @property
    def size(self) -> int:
        """Bytes covered."""
        return int((self.array[:, 1] - self.array[:, 0]).sum()) if len(self.array) else 0

    def union(self, other: Ranges) -> Ranges:
        """What is in either."""
        import numpy as np

        both = np.concatenate([self.array, other.array])
        return Ranges(_joined(both[np.argsort(both[:, 0], kind="stable")]))

    def subtract(self, other: Ranges) -> Ranges:
        """What is here and not in ``other``."""
        return self._combine(other, lambda here, there: (here > 0) & (there == 0))

    def intersect(self, other: Ranges) -> Ranges:
        """What is in both."""
        return self._combine(other, lambda here, there: (here > 0) & (there > 0))

    def clip(self, start: int, end: int) -> Ranges:
        """What lies in ``[start, end)``; cheap, for it looks only at the ranges it returns."""
        import numpy as np

        if end <= start or not len(self.array):
            return Ranges(self.array[:0])
        first = int(np.searchsorted(self.array[:, 1], np.uint64(start), side="right"))
        last = int(np.searchsorted(self.array[:, 0], np.uint64(min(end, _LAST)), side="left"))
        part = self.array[first:last].copy()
        if len(part):
            part[0, 0] = max(int(part[0, 0]), start)
            part[-1, 1] = min(int(part[-1, 1]), end)
        return Ranges(part)

    def clips(self, windows: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
        """What lies in each of many ``(start, end)`` windows: the same as :meth:`clip` for each, and quicker."""
        import numpy as np

        bounds = np.array([(start, min(end, _LAST)) for start, end in windows], np.uint64).reshape(-1, 2)
        first = np.searchsorted(self.array[:, 1], bounds[:, 0], side="right").tolist()
        last = np.searchsorted(self.array[:, 0], bounds[:, 1], side="left").tolist()
        for (start, end), a, b in zip(windows, first, last, strict=True):
            yield [(max(x, start), min(y, end)) for x, y in self.array[a:b].tolist()] if end > start else []

    def page_aligned(self, page_size: int) -> Ranges:
        """Every page that holds a byte of this set, whole."""
        import numpy as np

        mask = np.uint64(page_size - 1)
        array = self.array.copy()
        array[:, 0] &= ~mask
        # The last page of the address space ends where its end still fits.
        in_last = array[:, 1] > ~mask
        array[:, 1] = (array[:, 1] + mask) & ~mask
        array[in_last, 1] = _LAST
        return Ranges(_joined(array))

    def whole_pages(self, page_size: int) -> Ranges:
        """Every page of which this set has all bytes."""
        import numpy as np

        mask = np.uint64(page_size - 1)
        # A range that begins in the last page of the address space has no whole page.
        array = self.array[self.array[:, 0] <= ~mask]
        array = np.stack([(array[:, 0] + mask) & ~mask, array[:, 1] & ~mask], axis=1)
        return Ranges(array[array[:, 0] < array[:, 1]])

    def _combine(self, other: Ranges, keep: Any) -> Ranges:
        """A sweep over all starts and ends: +1 where a range opens, -1 where it closes, per set."""
        import numpy as np

        a, b = self.array, other.array
        points = np.concatenate([a[:, 0], a[:, 1], b[:, 0], b[:, 1]])
        order = np.argsort(points, kind="stable")
        step_a = np.concatenate([np.ones(len(a)), -np.ones(len(a)), np.zeros(2 * len(b))]).astype(np.int64)
        step_b = np.concatenate([np.zeros(2 * len(a)), np.ones(len(b)), -np.ones(len(b))]).astype(np.int64)
        points = points[order]
        inside = keep(np.cumsum(step_a[order]), np.cumsum(step_b[order]))[:-1]
        array = np.stack([points[:-1], points[1:]], axis=1) if len(points) else points.reshape(0, 2)
        array = array[inside] if len(array) else array
        return Ranges(_joined(array[array[:, 1] > array[:, 0]]))


def _joined(array: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Sorted ranges with overlapping and touching neighbours made one."""
    import numpy as np

    if len(array) < 2:
        return array
    ends = np.maximum.accumulate(array[:, 1])
    first = np.concatenate([[True], array[1:, 0] > ends[:-1]])
    starts = array[first, 0]
    last = np.concatenate([first[1:], [True]])
    return np.stack([starts, ends[last]], axis=1)
