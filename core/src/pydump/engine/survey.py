"""What guest memory is made of, cell by cell: zeros, data and how well it compresses, what was left out or lost."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pydump.engine.scan import Piece, scan
from pydump.errors import PlanError
from pydump.interfaces.executor import Executor
from pydump.interfaces.image import MemoryImage
from pydump.layout.zero import zero_pages
from pydump.model.findings import Cell, MapReport
from pydump.model.guest import Guest
from pydump.model.memory import Ranges
from pydump.model.progress import ProgressCallback

#: Of so many pages with data one is compressed, to learn how well it does.
SAMPLE: Final = 16
#: What a map calls pages that are in no class.
OTHER: Final = "kernel, other"
#: What a piece of memory says of a cell.
FOUND: Final = np.dtype(
    [("cell", "i8"), ("zero", "i8"), ("data", "i8"), ("lost", "i8"), ("sampled", "i8"), ("packed", "i8")]
)


def run_survey(
    source: MemoryImage,
    label: str,
    guest: Guest,
    max_cells: int,
    *,
    classes: Mapping[str, Ranges] | None = None,
    executor: Executor | None = None,
    progress: ProgressCallback | None = None,
) -> MapReport:
    """Look at all of guest memory.

    Args:
        source: The memory.
        label: What the user called it.
        guest: Its facts, settled.
        max_cells: The map has at most so many cells with RAM.
        classes: Classes of pages whose bytes are counted too, or None.
        executor: Whose workers look; default: as many local ones as there are CPUs.
        progress: Told how far the run is.

    Raises:
        ReadError: Some of the memory cannot be read.
    """
    ram = guest.memory.ranges()
    excluded, lost = source.excluded().intersect(ram), source.unreadable().intersect(ram)
    page_size = guest.page_size or 4096
    cell_size = _cell_size(ram, page_size, max_cells)
    readable = ram.subtract(excluded).subtract(lost)
    task = _Counts(page_size, cell_size)
    counts: dict[int, NDArray[np.int64]] = {}
    for found in scan(source, readable, task, unit=page_size, executor=executor, phase="map", progress=progress):
        for cell, *numbers in found.tolist():
            counts[cell] = counts.get(cell, 0) + np.array(numbers)
    cells = []
    for paddr in _cells(ram, cell_size):
        here = (paddr, paddr + cell_size)
        zero, data, damaged, sampled, packed = map(int, counts.get(paddr // cell_size, (0, 0, 0, 0, 0)))
        cells.append(
            Cell(
                paddr,
                ram.clip(*here).size,
                zero,
                data,
                excluded.clip(*here).size,
                lost.clip(*here).size + damaged,
                min(1.0, packed / sampled) if sampled else None,
                _class_sizes(classes, ram.clip(*here).subtract(excluded).subtract(lost)) if classes else (),
            )
        )
    blocks = tuple((block.paddr, block.size) for block in guest.memory)
    return MapReport(
        label, guest.arch, cell_size, blocks, tuple(cells), tuple(classes or ()), more_lost=source.more_lost()
    )


def _class_sizes(classes: Mapping[str, Ranges], here: Ranges) -> tuple[tuple[str, int], ...]:
    """Bytes of each class, and of what is in none; a page in two classes counts in the first."""
    sizes, rest = [], here
    for name, ranges in classes.items():
        sizes.append((name, sum(rest.intersect(ranges.clip(start, end)).size for start, end in rest)))
        rest = rest.subtract(ranges.clip(int(here.array[0, 0]), int(here.array[-1, 1]))) if here else rest
    return (*sizes, (OTHER, rest.size))


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


@dataclass(frozen=True, slots=True)
class _Counts:
    """Counts the bytes of each piece by cell, as an array of ``FOUND``.

    Attributes:
        page_size: Bytes.
        cell_size: Bytes, a multiple of the page size.
    """

    page_size: int
    cell_size: int

    def examine(self, piece: Piece) -> NDArray[np.void]:
        if piece.hole:
            return self._hole(*piece.runs[0])
        page_size = self.page_size
        data, damaged = piece.salvage(page_size)
        zero = zero_pages(data, page_size)
        paddrs = piece.pages(page_size)
        lost = np.isin(paddrs, np.array([start for start, _ in damaged], np.uint64))
        zero &= ~lost
        numbers, of = np.unique(paddrs // np.uint64(self.cell_size), return_inverse=True)
        found = np.zeros(len(numbers), FOUND)
        found["cell"] = numbers
        found["zero"] = np.bincount(of, zero, len(numbers)).astype(np.int64) * page_size
        found["data"] = np.bincount(of, ~(zero | lost), len(numbers)).astype(np.int64) * page_size
        found["lost"] = np.bincount(of, lost, len(numbers)).astype(np.int64) * page_size
        full = np.flatnonzero(~(zero | lost))
        # The first of each cell in any case, then one in so many.
        firsts = full[np.unique(of[full], return_index=True)[1]]
        for i in np.union1d(firsts, full[::SAMPLE]).tolist():
            found["sampled"][of[i]] += page_size
            packed = zlib.compress(data[i * page_size : (i + 1) * page_size], 1)
            found["packed"][of[i]] += min(page_size, len(packed))
        return found

    def _hole(self, start: int, end: int) -> NDArray[np.void]:
        """A hole may be terabytes long."""
        size = self.cell_size
        found = np.zeros(-(-end // size) - start // size, FOUND)
        for i in range(len(found)):
            cell = start // size + i
            found[i]["cell"], found[i]["zero"] = cell, min(end, (cell + 1) * size) - max(start, cell * size)
        return found
