"""Walking page tables: an architecture says what its tables look like and what an entry means; this does the rest.

A subclass of :class:`PageTables` gives the levels and decodes entries, many at a time::

    class Sv39(PageTables):
        def decode(self, level, entries, index):
            ...
            return present, leaf, target
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from pydump.errors import SourceError
from pydump.interfaces.arch import AddressSpace, Mapping, ReadPhysical
from pydump.layout.struct import prefix

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pydump.model.guest import ByteOrder
    from pydump.model.memory import MemoryMap

    #: Present, leaf, and the paddr that an entry points to, an array each.
    Decoded: TypeAlias = tuple[NDArray[np.bool], NDArray[np.bool], NDArray[np.uint64]]
    #: vaddr, paddr and size, an array each.
    Runs: TypeAlias = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]

#: Entries that are looked at before the tables are taken for endless. They map a TiB by 4 KiB pages.
MAX_ENTRIES: Final = 1 << 28
#: Mappings that do not continue each other, likewise. They are 8 GiB of pages that lie nowhere side by side.
MAX_MAPPINGS: Final = 1 << 21
#: The end of a table that has all its entries.
WHOLE: Final = 1 << 32
#: Entries of last tables that are decoded at once.
DECODED_AT_ONCE: Final = 1 << 20


class Level(NamedTuple):
    """One level of a page table.

    Attributes:
        shift: log2 of the bytes of address space behind one entry.
        bits: log2 of the number of entries in a table.
    """

    shift: int
    bits: int


def levels_of(page_shift: int, *bits: int) -> tuple[Level, ...]:
    """Levels from the top down, of tables of 2**bits entries each; the last one's entries are pages."""
    levels = []
    shift = page_shift
    for width in reversed(bits):
        levels.append(Level(shift, width))
        shift += width
    return tuple(reversed(levels))


class PageTables(AddressSpace):
    """An address space that is described by a tree of tables in guest memory.

    A table that does not lie in RAM counts as empty; what a leaf points to need not be RAM (devices).

    Args:
        read: Reads guest memory.
        memory: Where RAM lies.
        root: The paddr of the top table.
        levels: From the top down.
        byte_order: Of the entries.
        entry_size: Bytes of an entry, 4 or 8.
        fixed: Bits that every address has set besides those that index the tables.
        signed: Is the highest bit that indexes the tables repeated in all bits above it?
        root_part: Which entries the top table has, as of :meth:`part`.
    """

    def __init__(
        self,
        read: ReadPhysical,
        memory: MemoryMap,
        root: int,
        levels: Sequence[Level],
        *,
        byte_order: ByteOrder,
        entry_size: int = 8,
        fixed: int = 0,
        signed: bool = False,
        root_part: tuple[int, int] = (0, WHOLE),
    ) -> None:
        self._read = read
        self._memory = memory
        self.root = root
        self._levels = tuple(levels)
        self._dtype = f"{prefix(byte_order)}u{entry_size}"
        self._entry_size = entry_size
        self._va_bits = levels[0].shift + levels[0].bits
        self._sign = 1 << self._va_bits - 1 if signed else 0
        self._fixed = fixed
        self._root_part = root_part

    @abstractmethod
    def decode(self, level: Level, entries: NDArray[np.uint64], index: NDArray[np.uint64]) -> Decoded:
        """What entries of a table of ``level`` mean.

        An entry with bits that the architecture forbids is not in use: the CPU faults there, and a damaged table must
        not map memory that the guest never saw.

        Args:
            level: Theirs; that of the last level has only leaves.
            entries: Their values.
            index: Each one's place in its table, in an array that broadcasts against ``entries``.

        Returns:
            Of each entry: is it in use, does it map memory rather than point to a table, and the paddr it points to,
            whose bits below the size of what it maps are ignored.
        """

    def part(self, entry: int) -> tuple[int, int]:
        """Which entries a table has, as ``(first, end)``; an index outside of them is not mapped.

        Not asked for the tables of the last level.

        Args:
            entry: What points to the table.
        """
        return 0, WHOLE

    def translate(self, vaddr: int) -> int | None:
        import numpy as np

        within = vaddr & (1 << self._va_bits) - 1
        if self._canonical(within) != vaddr:
            return None
        table, (first, end) = self.root, self._root_part
        for level in self._levels:
            index = within >> level.shift & (1 << level.bits) - 1
            if not first <= index < end:
                return None
            entries = self._entries(table + index * self._entry_size, 1)
            if entries is None:
                return None
            present, leaf, target = self.decode(level, entries, np.array([index], np.uint64))
            if not present[0]:
                return None
            if leaf[0]:
                offset = (1 << level.shift) - 1
                return int(target[0]) & ~offset | within & offset
            table = int(target[0])
            first, end = (0, WHOLE) if level is self._levels[-2] else self.part(int(entries[0]))
        return None

    def mappings(self) -> Iterator[Mapping]:
        """Every mapping, ascending in vaddr, neighbours that continue each other joined.

        Raises:
            SourceError: There is no end to them: the tables point to themselves.
        """
        yield from self._mappings(0, 1 << self._va_bits, _Budget())

    def runs(self, vaddr: int, size: int) -> Iterator[Mapping]:
        """What ``[vaddr, vaddr + size)`` maps: one walk that is limited to the tables of the range.

        Raises:
            SourceError: There is no end to them: the tables point to themselves.
        """
        budget = _Budget()
        for first, within, length in self._canonical_halves():
            start, end = max(vaddr, first), min(vaddr + size, first + length)
            if start >= end:
                continue
            for found in self._mappings(start - first + within, end - first + within, budget):
                low, high = max(found.vaddr, start), min(found.vaddr + found.size, end)
                if low < high:
                    yield Mapping(low, found.paddr + low - found.vaddr, high - low)

    def _canonical_halves(self) -> tuple[tuple[int, int, int], ...]:
        """Where addresses can lie: the first, the bits of it that index the tables, and how many bytes there are."""
        if self._sign:
            return (0, 0, self._sign), ((1 << 64) - self._sign, self._sign, self._sign)
        return ((self._fixed, 0, 1 << self._va_bits),)

    def _mappings(self, start: int, end: int, budget: _Budget) -> Iterator[Mapping]:
        """Mappings of whole entries that touch ``[start, end)``, counted in the bits that index the tables."""
        last: Mapping | None = None
        for runs in self._walk(0, (self.root, 0, self._root_part), (start, end), budget):
            for vaddr, paddr, size in _joined(*runs):
                if last and (last.vaddr + last.size, last.paddr + last.size) == (vaddr, paddr):
                    last = Mapping(last.vaddr, last.paddr, last.size + size)
                    continue
                if last:
                    yield last
                budget.take(mappings=1)
                last = Mapping(vaddr, paddr, size)
        if last:
            yield last

    def _walk(
        self, depth: int, table: tuple[int, int, tuple[int, int]], wanted: tuple[int, int], budget: _Budget
    ) -> Iterator[Runs]:
        """What the table maps: arrays of vaddr, paddr and size, ascending in vaddr.

        Args:
            depth: Of the table, 0 for the top.
            table: Its paddr, the bits of vaddr that lead to it, and which entries it has.
            wanted: ``(start, end)`` of the bits of vaddr that index the tables: entries outside are not looked at.
            budget: What is left of the work that is allowed.
        """
        import numpy as np

        level = self._levels[depth]
        paddr, base, part = table
        first = max(part[0], wanted[0] - base >> level.shift)
        stop = min(part[1], 1 << level.bits, -(base - wanted[1] >> level.shift))
        entries = self._entries(paddr + first * self._entry_size, stop - first) if first < stop else None
        if entries is None:
            return
        budget.take(entries=len(entries))
        index = np.arange(first, stop, dtype=np.uint64)
        vaddr = np.uint64(base) + (index << np.uint64(level.shift))
        present, leaf, target = self.decode(level, entries, index)
        leaf = present & leaf
        inner = present & ~leaf
        if depth < len(self._levels) - 2:
            for i in np.flatnonzero(present).tolist():
                if leaf[i]:
                    yield self._leaves(vaddr[i : i + 1], target[i : i + 1], level)
                else:
                    below = int(target[i]), int(vaddr[i]), self.part(int(entries[i]))
                    yield from self._walk(depth + 1, below, wanted, budget)
            return
        step = max(1, DECODED_AT_ONCE >> self._levels[-1].bits)
        used = np.flatnonzero(present)
        for at in range(0, len(used), step):
            some = used[at : at + step]
            leaves, tables = some[leaf[some]], some[inner[some]]
            found = [self._leaves(vaddr[leaves], target[leaves], level)]
            if len(tables):
                found.append(self._last_level(vaddr[tables], target[tables], budget))
            runs = [np.concatenate(column) for column in zip(*found, strict=True)]
            order = np.argsort(runs[0], kind="stable")
            yield runs[0][order], runs[1][order], runs[2][order]

    def _last_level(self, bases: NDArray[np.uint64], tables: NDArray[np.uint64], budget: _Budget) -> Runs:
        """What some of the last level's tables map, all at once; a table that is used many times is read once."""
        import numpy as np

        level = self._levels[-1]
        budget.take(entries=len(tables) << level.bits)
        distinct, which = np.unique(tables, return_inverse=True)
        entries = np.zeros((len(distinct), 1 << level.bits), np.uint64)
        for i, table in enumerate(distinct.tolist()):
            row = self._entries(table, 1 << level.bits)
            if row is not None:
                entries[i] = row
        index = np.arange(1 << level.bits, dtype=np.uint64)
        present, leaf, target = self.decode(level, entries, index)
        rows, columns = np.nonzero((present & leaf)[which])
        vaddr = bases[rows] + (columns.astype(np.uint64) << np.uint64(level.shift))
        return self._leaves(vaddr, target[which[rows], columns], level)

    def _leaves(self, within: NDArray[np.uint64], target: NDArray[np.uint64], level: Level) -> Runs:
        import numpy as np

        size = np.uint64(1 << level.shift)
        vaddr = within | np.uint64(self._fixed)
        if self._sign:
            high = np.uint64((1 << 64) - (1 << self._va_bits))
            vaddr = np.where(within & np.uint64(self._sign), within | high, within)
        return vaddr, target & ~(size - np.uint64(1)), np.full(len(within), size)

    def _entries(self, paddr: int, n: int) -> NDArray[np.uint64] | None:
        """``n`` entries from ``paddr`` on, those that do not lie in RAM zero; None where none does."""
        import numpy as np

        size = n * self._entry_size
        block = self._memory.find(paddr)
        if block is not None and paddr + size <= block.end:
            return np.frombuffer(self._read(paddr, size), self._dtype).astype(np.uint64)
        parts = self._memory.clip(paddr, size)
        if not parts:
            return None
        data = bytearray(size)
        for part in parts:
            data[part.paddr - paddr : part.end - paddr] = self._read(part.paddr, part.size)
        return np.frombuffer(data, self._dtype).astype(np.uint64)

    def _canonical(self, within: int) -> int:
        """The whole address of which ``within`` are the bits that index the tables."""
        if within & self._sign:
            return within | (1 << 64) - (1 << self._va_bits)
        return within | self._fixed


class _Budget:
    """Counts what a walk does, so that tables which point to themselves end in an error."""

    def __init__(self) -> None:
        self.entries = MAX_ENTRIES
        self.mappings = MAX_MAPPINGS

    def take(self, *, entries: int = 0, mappings: int = 0) -> None:
        self.entries -= entries
        self.mappings -= mappings
        if self.entries < 0 or self.mappings < 0:
            raise SourceError(
                "the guest's page tables have no end: they are damaged, or made to point to themselves",
                hint="leave --paging out",
            )


def _joined(
    vaddr: NDArray[np.uint64], paddr: NDArray[np.uint64], size: NDArray[np.uint64]
) -> Iterator[tuple[int, int, int]]:
    """The runs with neighbours that continue each other made one."""
    import numpy as np

    if not len(vaddr):
        return
    end = vaddr + size
    breaks = np.flatnonzero((end[:-1] != vaddr[1:]) | (paddr[:-1] + size[:-1] != paddr[1:]))
    first = np.concatenate([[0], breaks + 1])
    last = np.concatenate([breaks, [len(vaddr) - 1]])
    yield from zip(vaddr[first].tolist(), paddr[first].tolist(), (end[last] - vaddr[first]).tolist(), strict=True)
