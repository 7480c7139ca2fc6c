"""What guest memory is made of: zeros, data and how well it compresses, what was left out, what is lost, cell by cell.

A survey is a dump like any other, whose writer keeps numbers instead of pages.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from pydump.engine.batches import Batches
from pydump.engine.executors import Job, executor_for
from pydump.errors import PlanError
from pydump.interfaces.format import Batch, Encoded, Writer
from pydump.interfaces.sink import Extent, Hole, Sink
from pydump.interfaces.source import Source
from pydump.layout.zero import zero_pages
from pydump.model.guest import Guest
from pydump.model.memory import PADDR_END, Ranges
from pydump.model.report import Cell, MapReport, Progress, ProgressCallback

#: Of so many pages with data one is compressed, to learn how well it does.
SAMPLE: Final = 16
#: What a batch says of a cell.
FOUND: Final = np.dtype([("cell", "i8"), ("zero", "i8"), ("data", "i8"), ("sampled", "i8"), ("packed", "i8")])


def run_survey(
    source: Source,
    label: str,
    guest: Guest,
    max_cells: int,
    *,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> MapReport:
    """Look at all of guest memory.

    Args:
        source: The memory.
        label: What the user called it.
        guest: Its facts, settled.
        max_cells: The map has at most so many cells with RAM.
        workers: Processes that look; default: the CPUs this process may use.
        progress: Told how far the run is.

    Raises:
        ReadError: Some of the memory cannot be read.
    """
    ram = guest.memory.ranges()
    excluded, lost = source.excluded().intersect(ram), source.unreadable().intersect(ram)
    page_size = guest.page_size or 4096
    cell_size = _cell_size(ram, page_size, max_cells)
    writer = _Survey(ram.subtract(excluded).subtract(lost), page_size, cell_size)
    batches = Batches(source, ram.subtract(excluded).subtract(lost), writer)
    tally = _Tally()

    def tell(done: int) -> None:
        if progress is not None:
            progress(Progress("map", done, batches.total))

    executor_for(workers, batches).run(Job(batches, writer, tally, tell))
    cells = []
    for paddr in _cells(ram, cell_size):
        here = (paddr, paddr + cell_size)
        zero, data, sampled, packed = tally.of(paddr // cell_size)
        cells.append(
            Cell(
                paddr,
                ram.clip(*here).size,
                zero,
                data,
                excluded.clip(*here).size,
                lost.clip(*here).size,
                min(1.0, packed / sampled) if sampled else None,
            )
        )
    blocks = tuple((block.paddr, block.size) for block in guest.memory)
    return MapReport(label, guest.arch, cell_size, blocks, tuple(cells))


def _cell_size(ram: Ranges, page_size: int, max_cells: int) -> int:
    """The least power of two, at least a page, that gives no more than ``max_cells`` cells."""
    size = page_size
    while sum(-(-end // size) - start // size for start, end in ram) > max_cells:
        size *= 2
        if size > 1 << 63:
            raise PlanError("there is no guest memory to map")
    return size


def _cells(ram: Ranges, cell_size: int) -> Iterator[int]:
    """Where each cell that holds RAM begins."""
    last = -1
    for start, end in ram:
        for number in range(max(last + 1, start // cell_size), -(-end // cell_size)):
            yield number * cell_size
            last = number


class _Survey(Writer):
    """Counts the pages of each batch by cell.

    Args:
        readable: The memory to look at.
        page_size: Bytes.
        cell_size: Bytes.
    """

    sequential: ClassVar[bool] = True
    max_hole: ClassVar[int] = PADDR_END

    def __init__(self, readable: Ranges, page_size: int, cell_size: int) -> None:
        self.stored = readable.page_aligned(page_size)
        self.unit = page_size
        self.start = 0
        self.size_limit = 0
        self._cell_size = cell_size
        # Where in the stream each range begins, to find the paddr behind a position.
        self._begins = np.array([0, *accumulate(end - start for start, end in self.stored)], np.uint64)
        self._starts = self.stored.array[:, 0]

    def layout(self) -> Iterator[Extent | Hole]:
        return iter(())

    def encode(self, batch: Batch) -> Encoded:
        if batch.data is None:
            return self._hole(batch)
        page_size = self.unit
        n = batch.size // page_size
        positions = np.uint64(batch.position) + np.arange(n, dtype=np.uint64) * np.uint64(page_size)
        which = np.searchsorted(self._begins, positions, "right") - 1
        cells = (self._starts[which] + positions - self._begins[which]) // np.uint64(self._cell_size)
        zero = zero_pages(batch.data, page_size)
        numbers, of = np.unique(cells, return_inverse=True)
        found = np.zeros(len(numbers), FOUND)
        found["cell"] = numbers
        found["zero"] = np.bincount(of, zero, len(numbers)).astype(np.int64) * page_size
        found["data"] = np.bincount(of, ~zero, len(numbers)).astype(np.int64) * page_size
        full = np.flatnonzero(~zero)
        # The first of each cell in any case, then one in so many.
        firsts = full[np.unique(of[full], return_index=True)[1]]
        for i in np.union1d(firsts, full[::SAMPLE]).tolist():
            found["sampled"][of[i]] += page_size
            packed = zlib.compress(batch.data[i * page_size : (i + 1) * page_size], 1)
            found["packed"][of[i]] += min(page_size, len(packed))
        payload = found.tobytes()
        return Encoded(batch.position, len(payload), payload, None, batch.size, int(zero.sum()) * page_size)

    def _hole(self, batch: Batch) -> Encoded:
        """A batch of zeros, which lies in one range of memory and may be terabytes long."""
        which = int(np.searchsorted(self._begins, np.uint64(batch.position), "right")) - 1
        start = int(self._starts[which]) + batch.position - int(self._begins[which])
        end, size = start + batch.size, self._cell_size
        found = np.zeros(-(-end // size) - start // size, FOUND)
        for i in range(len(found)):
            cell = start // size + i
            found[i]["cell"], found[i]["zero"] = cell, min(end, (cell + 1) * size) - max(start, cell * size)
        payload = found.tobytes()
        return Encoded(batch.position, len(payload), payload, None, batch.size, batch.size)

    def extents(self, encoded: Encoded, start: int) -> Iterator[Extent | Hole]:
        if encoded.payload:
            yield Extent(start, encoded.payload)


class _Tally(Sink):
    """Adds up what batches say of each cell."""

    name: ClassVar[str] = "survey"
    seekable: ClassVar[bool] = False

    def __init__(self) -> None:
        self._cells: dict[int, NDArray[Any]] = {}

    @classmethod
    def open(cls, argument: str, options: Any = None, *, force: bool = False, sync: bool = True) -> Self:
        raise PlanError("a survey is not an output")

    def of(self, cell: int) -> tuple[int, int, int, int]:
        """Bytes of zero pages, of pages with data, of those that were compressed, and of what came of them."""
        found = self._cells.get(cell)
        return (0, 0, 0, 0) if found is None else tuple(found.tolist())

    def write(self, extent: Extent | Hole) -> None:
        if isinstance(extent, Extent):
            for row in np.frombuffer(bytes(extent.data), FOUND).tolist():
                numbers = np.array(row[1:], np.int64)
                self._cells[row[0]] = self._cells.get(row[0], 0) + numbers

    def commit(self, size: int) -> None:
        """There is nothing to complete."""

    def abort(self) -> None:
        """There is nothing to undo."""
