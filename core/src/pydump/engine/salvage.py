"""Goes on where single pages of a source are damaged: they are lost, and the others are written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydump.engine.batches import Batches, Spec
from pydump.errors import DamagedPageError
from pydump.interfaces.image import KnowsHoles, MemoryImage
from pydump.interfaces.writer import Batch
from pydump.model.guest import Guest


class SalvagingBatches(Batches):
    """Batches that are read page by page where a page of them is damaged.

    Attributes:
        page_size: Of the guest, in bytes.
    """

    page_size: int = 4096

    def load(self, spec: Spec, buffer: memoryview) -> Batch:
        try:
            return super().load(spec, buffer)
        except DamagedPageError:
            return self._salvaged(spec, buffer)

    def _salvaged(self, spec: Spec, buffer: memoryview) -> Batch:
        lost: list[tuple[int, int]] = []
        done = 0
        for start, end in spec.runs:
            for at, stop in _pages(start, end, self.page_size):
                piece = buffer[done : done + stop - at]
                try:
                    self._fill(at, piece)
                except DamagedPageError:
                    piece[:] = bytes(len(piece))
                    lost.append((done, done + len(piece)))
                done += stop - at
        return Batch(spec.position, spec.size, buffer[: spec.size], lost=tuple(lost))


def filled(source: MemoryImage, page_size: int, byte: int = 0) -> MemoryImage:
    """``source`` for those who look for something: a page that is damaged reads as ``byte``, over and over."""
    return (_FilledWithHoles if isinstance(source, KnowsHoles) else _Filled)(source, page_size, byte)


class _Filled(MemoryImage):
    def __init__(self, source: MemoryImage, page_size: int, byte: int) -> None:
        self._source = source
        self._page_size = page_size
        self._byte = bytes([byte])

    def guest(self) -> Guest:
        return self._source.guest()

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        try:
            self._source.read_into(paddr, buffer)
        except DamagedPageError:
            for at, stop in _pages(paddr, paddr + len(buffer), self._page_size):
                piece = buffer[at - paddr : stop - paddr]
                try:
                    self._source.read_into(at, piece)
                except DamagedPageError:
                    piece[:] = self._byte * len(piece)

    def read_runs(self, runs: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        try:
            self._source.read_runs(runs, buffer)
        except DamagedPageError:
            super().read_runs(runs, buffer)


class _FilledWithHoles(_Filled):
    def data_ranges(self, paddr: int, size: int) -> Iterator[tuple[int, int]]:
        """As the source has it."""
        assert isinstance(self._source, KnowsHoles)
        return self._source.data_ranges(paddr, size)


def _pages(start: int, end: int, page_size: int) -> Iterator[tuple[int, int]]:
    """A range cut at whole pages."""
    while start < end:
        stop = min(end, (start // page_size + 1) * page_size)
        yield start, stop
        start = stop
