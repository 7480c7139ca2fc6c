"""Cuts what a writer or a scan wants into batches, and fills them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from pydump.interfaces.executor import Spec
from pydump.interfaces.image import HoldsStoredPages, KnowsHoles, MemoryImage
from pydump.interfaces.writer import Batch, Writer
from pydump.model.memory import PADDR_END, Ranges

#: Bytes of guest memory in a batch that holds data, unless a run says another number.
BATCH_SIZE = 4 << 20
#: A hole shorter than this is filled with zeros rather than cut out.
LEAST_HOLE = 1 << 20


class Batches:
    """The batches of a dump or the pieces of a scan: the same sequence each time, in every process.

    Args:
        source: Where the memory is.
        readable: What of it can be read.
        stored: What is wanted of it; what of that is not readable is zero.
        unit: Batches are cut at multiples of this many bytes of each stored range.
        max_hole: Bytes of a batch that is known to be zero, at most.
        takes: The compression of stored pages that are copied, or None.
        batch_size: Bytes in a batch that holds data, a multiple of the unit.
    """

    def __init__(
        self,
        source: MemoryImage,
        readable: Ranges,
        stored: Ranges,
        *,
        unit: int = 1,
        max_hole: int = PADDR_END,
        takes: str | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self._source = source
        self._stored = stored
        self._unit = unit
        self._max_hole = max_hole
        self._readable = readable
        self._knows_holes = source if isinstance(source, KnowsHoles) else None
        # A window may cut a page, whose rest is then zero, and a page may be lost: those are filled in.
        self._ragged = stored.subtract(readable)
        self._takes = takes if isinstance(source, HoldsStoredPages) else None
        self.total = stored.size
        self.batch_size = batch_size

    @classmethod
    def of(cls, source: MemoryImage, readable: Ranges, writer: Writer, batch_size: int = BATCH_SIZE) -> Self:
        """What a writer wants, in the pieces that it wants."""
        return cls(
            source,
            readable,
            writer.stored,
            unit=writer.unit,
            max_hole=writer.max_hole,
            takes=writer.takes,
            batch_size=batch_size,
        )

    @property
    def n_batches(self) -> int:
        """Batches with data, at most."""
        return max(1, -(-self.total // self.batch_size))

    def specs(self) -> Iterator[Spec]:
        """What each batch is made of, in the order of the stored stream."""
        position = size = 0
        runs: list[tuple[int, int]] = []
        for start, end, hole in self._pieces():
            if hole:
                if runs:
                    yield Spec(position, size, tuple(runs))
                    position, size, runs = position + size, 0, []
                for at in range(start, end, self._max_hole):
                    step = min(self._max_hole, end - at)
                    yield Spec(position, step, ((at, at + step),), hole=True)
                    position += step
                continue
            at = start
            while at < end:
                stop = min(end, at + self.batch_size - size)
                runs.append((at, stop))
                size += stop - at
                at = stop
                if size == self.batch_size:
                    yield Spec(position, size, tuple(runs))
                    position, size, runs = position + size, 0, []
        if runs:
            yield Spec(position, size, tuple(runs))

    def buffer(self) -> memoryview:
        """Room for any batch."""
        return memoryview(bytearray(min(self.batch_size, max(1, self.total))))

    def load(self, spec: Spec, buffer: memoryview) -> Batch:
        """Read a batch.

        Args:
            spec: Which.
            buffer: What :meth:`buffer` gave, which the batch's data will lie in.
        """
        if spec.hole:
            return Batch(spec.position, spec.size, None)
        ragged = bool(self._ragged.clip(spec.runs[0][0], spec.runs[-1][1]))
        if self._takes is not None and not ragged:
            assert isinstance(self._source, HoldsStoredPages)
            stored = self._source.stored_pages(spec.runs, self._unit, self._takes)
            if stored is not None:
                return Batch(spec.position, spec.size, None, stored)
        if not ragged:
            self._source.read_runs(spec.runs, buffer[: spec.size])
        else:
            at = 0
            for start, end in spec.runs:
                self._fill(start, buffer[at : at + end - start])
                at += end - start
        return Batch(spec.position, spec.size, buffer[: spec.size])

    def _fill(self, paddr: int, buffer: memoryview) -> None:
        """Read a run; what of it is not readable (the rest of a page beyond RAM) is zero."""
        end = paddr + len(buffer)
        at = paddr
        for start, stop in self._readable.clip(paddr, end):
            if start > at:
                buffer[at - paddr : start - paddr] = bytes(start - at)
            self._source.read_into(start, buffer[start - paddr : stop - paddr])
            at = stop
        if at < end:
            buffer[at - paddr :] = bytes(end - at)

    def _pieces(self) -> Iterator[tuple[int, int, bool]]:
        """``(start, end, is hole)`` over the stored ranges, cut at multiples of the unit."""
        for start, end in self._stored:
            if self._knows_holes is None or end - start < LEAST_HOLE:
                yield start, end, False
                continue
            at = start
            for data_start, data_end in self._data(self._knows_holes, start, end):
                if data_start - at >= LEAST_HOLE:
                    yield at, data_start, True
                    at = data_start
                if data_end > at:
                    yield at, data_end, False
                    at = data_end
            if end - at >= LEAST_HOLE:
                yield at, end, True
            elif end > at:
                yield at, end, False

    def _data(self, source: KnowsHoles, start: int, end: int) -> Iterator[tuple[int, int]]:
        """What of a range may hold data, widened to whole units and with short holes closed."""
        unit = self._unit
        last: tuple[int, int] | None = None
        for a, b in self._readable.clip(start, end):
            for data_start, data_end in source.data_ranges(a, b - a):
                first = start + (data_start - start) // unit * unit
                stop = min(end, start - (start - data_end) // unit * unit)
                if last is not None and first - last[1] < LEAST_HOLE:
                    last = (last[0], max(last[1], stop))
                else:
                    if last is not None:
                        yield last
                    last = (first, stop)
        if last is not None:
            yield last
