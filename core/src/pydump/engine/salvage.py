"""Goes on where single pages of a source are damaged: they are lost, and the others are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pydump.engine.batches import Batches
from pydump.errors import DamagedPageError
from pydump.interfaces.executor import Spec
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
        data = buffer[: spec.size]
        lost = tuple((at, stop) for _, at, stop in _by_page(self._fill, spec.runs, data, self.page_size))
        return Batch(spec.position, spec.size, data, lost=lost)


def read_salvaged(
    source: MemoryImage, runs: Sequence[tuple[int, int]], buffer: memoryview, page_size: int
) -> tuple[tuple[int, int], ...]:
    """Read runs end to end; a page that is damaged reads as zeros.

    Args:
        source: Where they are.
        runs: ``(start, end)`` in paddr of each.
        buffer: Takes all of them.
        page_size: Of the guest, in bytes.

    Returns:
        ``(start, end)`` in paddr of each damaged page.
    """
    try:
        source.read_runs(runs, buffer)
    except DamagedPageError:
        return tuple(
            (paddr, paddr + stop - at) for paddr, at, stop in _by_page(source.read_into, runs, buffer, page_size)
        )
    return ()


def _by_page(
    read_into: Callable[[int, memoryview], None], runs: Sequence[tuple[int, int]], buffer: memoryview, page_size: int
) -> list[tuple[int, int, int]]:
    """Read runs page by page, with zeros for what is damaged: its paddr, and where in the buffer it begins and ends."""
    lost = []
    done = 0
    for start, end in runs:
        for at, stop in _pages(start, end, page_size):
            piece = buffer[done : done + stop - at]
            try:
                read_into(at, piece)
            except DamagedPageError:
                piece[:] = bytes(len(piece))
                lost.append((at, done, done + len(piece)))
            done += stop - at
    return lost


def filled(source: MemoryImage, page_size: int, byte: int = 0) -> MemoryImage:
    """``source`` for those who look for something: a page that is damaged reads as ``byte``, over and over."""
    return (_FilledWithHoles if isinstance(source, KnowsHoles) else _Filled)(source, page_size, byte)


class _Filled(MemoryImage):
    def __init__(self, source: MemoryImage, page_size: int, byte: int) -> None:
        self._source = source
        self._page_size = page_size
        self._byte = bytes([byte])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._source, self._page_size, self._byte[0])

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
