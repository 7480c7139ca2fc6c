"""The executor role: which processes, on which hosts, work on pieces of guest memory."""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, NamedTuple, Self, TypeVar

from pydump.errors import PydumpError, UnsupportedError
from pydump.interfaces.sink import Extent, Hole
from pydump.options import NoOptions

if TYPE_CHECKING:
    from pydump.interfaces.sink import Sink
    from pydump.interfaces.writer import Encoded, Encoder, Placer, Writer

_R = TypeVar("_R")

#: Every executor cuts a longer extent at multiples of this. A flattened stream has a record for each piece.
PIECE_SIZE: Final = 4 << 20


class Spec(NamedTuple):
    """A piece of guest memory before it is read.

    Attributes:
        position: Where it begins in the stored stream of a dump, or among all pieces of a scan.
        size: Bytes.
        runs: ``(start, end)`` in paddr of what it is made of, end to end.
        hole: Whether all of it is known to be zero; it is a single run then.
    """

    position: int
    size: int
    runs: tuple[tuple[int, int], ...]
    hole: bool = False

    def paddr(self, offset: int) -> int:
        """The paddr of the byte ``offset`` bytes from its begin."""
        for start, end in self.runs:
            if offset < end - start:
                return start + offset
            offset -= end - start
        raise IndexError(offset)


class Task(ABC, Generic[_R]):
    """Work on pieces of guest memory.

    It can be pickled where another process can open the memory for itself; else pickling raises a PydumpError that
    says so. An executor whose workers inherit this process's memory does not pickle it.

    Attributes:
        label: What a log or a dashboard calls it, such as "verify".
        total: Bytes of all pieces.
        piece_size: Bytes of a piece that is not a hole, at most.
        result_size: Bytes of a result, at most, as far as that is known.
    """

    label: str
    total: int
    piece_size: int
    result_size: int

    @property
    def n_pieces(self) -> int:
        """Pieces that are not holes, at least one: more workers than these would have nothing to do."""
        return max(1, -(-self.total // self.piece_size))

    @abstractmethod
    def specs(self) -> Iterator[Spec]:
        """All pieces, in order; the same in each process."""

    @abstractmethod
    def worker(self) -> Callable[[Spec], _R]:
        """What works on one piece at a time. Each has a buffer of its own.

        A result may refer to that buffer, so it is valid until the next call, which waits until the result was taken.
        The call raises a PydumpError where the memory cannot be read, or a plugin fails.
        """


def pickled(task: Task[Any]) -> bytes:
    """A task for another process.

    Raises:
        UnsupportedError: Other processes cannot do it.
    """
    try:
        return pickle.dumps(task)
    except PydumpError:
        raise
    except Exception as error:  # whatever a plugin's class makes of it
        raise UnsupportedError(f"no other process can {task.label} this: {error}") from error


@dataclass(frozen=True, slots=True)
class Job:
    """A dump: batches through an encoder into a sink.

    Attributes:
        encoding: Encodes each batch.
        encoder: What it encodes with.
        writer: Whose encoder it is.
        sink: Where extents go.
        progress: Called with the bytes of guest memory that are done.
    """

    encoding: Task[Encoded[Any]]
    encoder: Encoder[Any]
    writer: Writer
    sink: Sink
    progress: Callable[[int], None]


class Outcome(NamedTuple):
    """What a dump adds up to.

    Attributes:
        end: Where the last payload ends.
        zero_size: Bytes of guest memory that were found to be zero.
        taken_size: Bytes of guest memory whose pages were taken over unread.
        lost_size: Bytes of guest memory in pages that are damaged in the source.
        first_lost: The paddr of the first such page, or None.
    """

    end: int
    zero_size: int = 0
    taken_size: int = 0
    lost_size: int = 0
    first_lost: int | None = None


class Tally:
    """Gives batches their place, in order, and adds up what they are.

    Args:
        writer: Whose batches they are.

    Attributes:
        placer: The writer's.
        done: Bytes of guest memory so far.
    """

    def __init__(self, writer: Writer) -> None:
        self.placer: Placer[Any, Any] | None = writer.placer()
        self._end = writer.start
        self._zero = self._taken = self._lost = 0
        self._first_lost: int | None = None
        self.done = 0

    def place(self, encoded: Encoded[Any]) -> tuple[int, Any]:
        """Where the next batch's payload begins, and what the placer says of it: None where it is not asked."""
        start = self._end
        size, answer = placed(self.placer, encoded, start)
        self._end = start + size
        self.done += encoded.size
        self._zero += encoded.zero_size
        self._taken += encoded.taken_size
        self._lost += encoded.lost_size
        self._first_lost = encoded.first_lost if self._first_lost is None else self._first_lost
        return start, answer

    def outcome(self) -> Outcome:
        """What it adds up to."""
        return Outcome(self._end, self._zero, self._taken, self._lost, self._first_lost)


class Executor(ABC):
    """Has pieces of guest memory worked on. Use it as a context manager.

    It needs :meth:`map` alone: :meth:`run` is made of it, and is overridden by an executor that can write a dump in a
    better way than through this process.
    """

    #: The name before the colon of ``--executor``.
    name: ClassVar[str]
    #: Whether workers inherit all that this process has, as forked ones do. Else tasks are pickled, and workers open
    #: the source for themselves: they can have no live guest.
    inherits: ClassVar[bool] = False
    Options: ClassVar[type] = NoOptions

    @classmethod
    @abstractmethod
    def open(cls, argument: str, options: Any = None) -> Self:
        """The executor that ``--executor NAME:ARGUMENT`` asks for.

        Args:
            argument: What stands after the colon, or "".
            options: An instance of ``Options``, or None for the defaults.

        Raises:
            PlanError: The argument is invalid.
            PydumpError: It cannot be reached, or its workers do not fit this process.
        """

    @abstractmethod
    def workers_for(self, n_pieces: int) -> int:
        """How many workers ``n_pieces`` pieces are given to."""

    @abstractmethod
    def map(self, task: Task[_R]) -> Iterator[_R]:
        """Have each piece of a task worked on; yields the results in the order of the pieces.

        A result may be valid only until the next one is asked for. No more are made ahead than memory is there for,
        and workers stop when the iterator is closed.

        Raises:
            PydumpError: The first piece, in order, for which work failed; or a worker was lost.
        """

    def run(self, job: Job) -> Outcome:
        """Encode all batches, place them in order and write them.

        Raises:
            PydumpError: Anything failed; no work goes on.
        """
        for extent in job.writer.headers():
            job.sink.write(extent)
        tally = Tally(job.writer)
        for encoded in self.map(job.encoding):
            start, answer = tally.place(encoded)
            for extent in in_pieces(job.encoder.extents(encoded, start, answer)):
                job.sink.write(extent)
            job.progress(tally.done)
        return tally.outcome()

    def close(self) -> None:
        """End the workers."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def placed(placer: Placer[Any, Any] | None, encoded: Encoded[Any], start: int) -> tuple[int, Any]:
    """Bytes of a batch's payload, which begins at ``start``, and what the placer says of it, or None."""
    if placer is None or encoded.summary is None:
        return encoded.payload_size, None
    return placer.place(encoded.summary, start)


def in_pieces(extents: Iterable[Extent | Hole]) -> Iterator[Extent | Hole]:
    """The same extents, none of which holds more than :data:`PIECE_SIZE` bytes."""
    for extent in extents:
        if isinstance(extent, Hole) or extent.size <= PIECE_SIZE:
            yield extent
            continue
        view = memoryview(extent.data).cast("B")
        for at in range(0, extent.size, PIECE_SIZE):
            yield Extent(extent.offset + at, view[at : at + PIECE_SIZE])
