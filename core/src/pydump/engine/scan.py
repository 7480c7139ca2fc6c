"""Looks at guest memory piece by piece, on all workers; what is found comes in the order of the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

from pydump.builtin.local import LocalExecutor
from pydump.engine.batches import BATCH_SIZE, LEAST_HOLE, Batches
from pydump.engine.salvage import read_salvaged
from pydump.errors import DamagedPageError, PydumpError, failure
from pydump.interfaces import executor as running
from pydump.interfaces.executor import Executor, Spec
from pydump.interfaces.image import KnowsHoles, MemoryImage
from pydump.model.memory import Ranges
from pydump.model.progress import Progress, ProgressCallback

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
    executor: Executor | None = None,
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
        executor: Whose workers look; default: as many local ones as there are CPUs.
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

    for size, result in (executor or LocalExecutor()).map(_Scan(source, batches, task, phase)):
        done += size
        tell()
        yield result


class _Scan(running.Task[tuple[int, R]]):
    """Size and result of each piece."""

    result_size = 0

    def __init__(self, source: MemoryImage, batches: Batches, task: Task[R], phase: str) -> None:
        self._source = source
        self._batches = batches
        self._task = task
        self.label = phase
        self.total = batches.total
        self.piece_size = batches.batch_size

    def specs(self) -> Iterator[Spec]:
        return self._batches.specs()

    def worker(self) -> Callable[[Spec], tuple[int, R]]:
        source, batches, task, buffer = self._source, self._batches, self._task, self._batches.buffer()

        def examine(spec: Spec) -> tuple[int, R]:
            try:
                return spec.size, task.examine(Piece(source, batches, spec, buffer))
            except (PydumpError, MemoryError):
                raise
            except Exception as error:  # a source that breaks is named, with where it was
                raise failure(error, where=f"at paddr {spec.runs[0][0]:#x}") from error

        return examine


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
