"""Looks at guest memory piece by piece, on all workers; what is found comes in the order of the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pydump.engine.batches import BATCH_SIZE, LEAST_HOLE, Batches, Spec
from pydump.engine.salvage import read_salvaged
from pydump.engine.workers import Claims, forked, messages, useful_workers
from pydump.errors import DamagedPageError, PydumpError
from pydump.interfaces.image import KnowsHoles, MemoryImage
from pydump.model.memory import Ranges
from pydump.model.report import Progress, ProgressCallback

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Piece:
    """A piece of guest memory.

    Attributes:
        source: Where it is.
        runs: ``(start, end)`` in paddr of what it is made of, ascending, at least one.
        size: Bytes of all runs together.
        hole: Whether all of it is known to be zero without reading. It is a single run then, of any length.
    """

    __slots__ = ("_batches", "_buffer", "_spec", "hole", "runs", "size", "source")

    def __init__(self, source: MemoryImage, batches: Batches, spec: Spec, buffer: memoryview) -> None:
        self.source = source
        self.runs = spec.runs
        self.size = spec.size
        self.hole = spec.hole
        self._batches = batches
        self._spec = spec
        self._buffer = buffer

    def read(self) -> memoryview:
        """All runs end to end, valid until the next piece; not to be called for a hole.

        Raises:
            ReadError: Something in it cannot be read.
            FormatError: The file that holds it is damaged.
        """
        data = self._batches.load(self._spec, self._buffer).data
        assert data is not None
        return data

    def salvage(self, page_size: int) -> tuple[memoryview, tuple[tuple[int, int], ...]]:
        """As :meth:`read`, but pages that are damaged are zero.

        Args:
            page_size: Of the guest, in bytes.

        Returns:
            All runs end to end, and ``(start, end)`` in paddr of each damaged page.

        Raises:
            ReadError: Something in it cannot be read for another reason.
            FormatError: The file that holds it is damaged.
        """
        try:
            return self.read(), ()
        except DamagedPageError:
            data = self._buffer[: self.size]
            return data, read_salvaged(self.source, self.runs, data, page_size)

    def pages(self, page_size: int) -> NDArray[np.uint64]:
        """The paddr of each page; all runs begin and end with one."""
        import numpy as np

        return np.concatenate([np.arange(start, end, page_size, dtype=np.uint64) for start, end in self.runs])


class Task(Protocol[R_co]):
    """What is done with each piece. It goes to workers as it is, so that it is small and can be pickled."""

    def examine(self, piece: Piece) -> R_co:
        """Look at a piece.

        Returns:
            What was found: small, and picklable.

        Raises:
            PydumpError: It cannot be read; the scan ends with this. A task that can do without catches it.
        """
        ...


def scan(
    source: MemoryImage,
    ranges: Ranges,
    task: Task[R],
    *,
    unit: int = 1,
    workers: int | None = None,
    piece_size: int = BATCH_SIZE,
    phase: str = "scan",
    progress: ProgressCallback | None = None,
) -> Iterator[R]:
    """Have a task look at memory; yields what it finds, a result for each piece, in the order of the memory.

    Workers end when the iterator does, be it early.

    Args:
        source: Where the memory is. Only the process that opened a live guest can read it before it is captured: that
            takes one worker.
        ranges: What to look at.
        task: What to do with each piece.
        unit: Runs begin and end at multiples of this; what of that lies outside of ``ranges`` is zero.
        workers: Processes that look; default: the CPUs this process may use.
        piece_size: Bytes of a piece that is no hole, at most; a multiple of ``unit``.
        phase: What this is called in ``progress``.
        progress: Told how far the scan is.

    Raises:
        PydumpError: What the task raised for the first piece at which it did, or a worker failed.
    """
    wanted = ranges.page_aligned(unit) if unit > 1 else ranges
    batches = Batches(source, ranges, wanted, unit=unit, batch_size=piece_size)
    done = 0

    def tell() -> None:
        if progress is not None:
            progress(Progress(phase, done, batches.total))

    count = useful_workers(workers, -(-batches.total // piece_size))
    outcomes = _by_workers(source, batches, task, count, tell) if count > 1 else _here(source, batches, task)
    for size, result in outcomes:
        done += size
        tell()
        yield result


def _here(source: MemoryImage, batches: Batches, task: Task[R]) -> Iterator[tuple[int, R]]:
    """Size and result of each piece, by this process alone."""
    buffer = batches.buffer()
    for spec in batches.specs():
        yield spec.size, task.examine(Piece(source, batches, spec, buffer))


def _by_workers(
    source: MemoryImage, batches: Batches, task: Task[R], count: int, tick: Callable[[], None]
) -> Iterator[tuple[int, R]]:
    """Size and result of each piece, by ``count`` workers; ``tick`` is called some ten times a second."""
    claims = Claims()

    def work(_: int, pipe: Any) -> None:
        buffer = batches.buffer()
        wanted = claims.claim()
        for index, spec in enumerate(batches.specs()):
            if index != wanted:
                continue
            try:
                result = task.examine(Piece(source, batches, spec, buffer))
            except PydumpError as error:  # raised when all before it have been seen, as one process would do
                pipe.send((index, spec.size, error, True))
                return
            pipe.send((index, spec.size, result, False))
            wanted = claims.claim()

    early: dict[int, tuple[int, Any, bool]] = {}
    wanted = 0
    with forked(count, work) as workers:
        for _, (index, *outcome) in messages(workers, tick):
            early[index] = (outcome[0], outcome[1], outcome[2])
            while wanted in early:
                size, result, failed = early.pop(wanted)
                if failed:
                    raise result
                yield size, result
                wanted += 1


def data_pages(source: MemoryImage, pages: Ranges, page_size: int) -> Ranges:
    """Those of some pages that may hold anything but zeros, as far as the source knows without reading.

    A scan fills short holes with zeros; who leaves out these pages does not read them either.

    Args:
        source: Where they are.
        pages: Whole pages.
        page_size: Bytes of one.
    """
    if not isinstance(source, KnowsHoles):
        return pages
    found: list[tuple[int, int]] = []
    for start, end in pages:
        found += [(start, end)] if end - start < LEAST_HOLE else source.data_ranges(start, end - start)
    return Ranges.of(found).page_aligned(page_size).intersect(pages)
