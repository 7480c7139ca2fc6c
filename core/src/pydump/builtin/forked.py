"""Tasks and dumps by forked workers."""

from __future__ import annotations

import contextlib
import mmap
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import get_context
from typing import Any, Final, TypeAlias, TypeVar

from pydump.builtin.courier import Courier, Inbox, Message, Post, shared_memory
from pydump.builtin.workers import Claims, Worker, forked, messages
from pydump.errors import PydumpError
from pydump.interfaces.executor import Job, Outcome, Spec, Tally, Task, in_pieces, placed
from pydump.interfaces.writer import Encoded, Placer

R = TypeVar("R")
_Encoded: TypeAlias = Encoded[Any]
#: Where a batch's payload begins, and what the placer says of the batch.
_Place: TypeAlias = tuple[int, Any]

#: Encoded batches a worker may hold while it waits for its turn.
MAX_PENDING: Final = 3


def map_forked(task: Task[R], count: int) -> Iterator[R]:
    """The results of a task, in order, by ``count`` workers."""
    claims = Claims()

    def work(_: int, pipe: Any) -> None:
        examine = task.worker()
        wanted = claims.claim()
        for index, spec in enumerate(task.specs()):
            if index != wanted:
                continue
            try:
                result = examine(spec)
            except PydumpError as error:  # raised when all before it have been seen, as one process would do
                pipe.send((index, error, True))
                return
            pipe.send((index, result, False))
            wanted = claims.claim()

    early: dict[int, tuple[Any, bool]] = {}
    wanted = 0
    with forked(count, work) as workers:
        for _, (index, result, failed) in messages(workers, lambda: None):
            early[index] = result, failed
            while wanted in early:
                result, failed = early.pop(wanted)
                if failed:
                    raise result
                yield result
                wanted += 1


def run_forked(job: Job, count: int) -> Outcome:
    """Write a dump by ``count`` workers, which inherit source, encoder and sink.

    A worker claims the next batch, reads and encodes it, and gets its place when the batches before have theirs. Where
    the sink takes writes from any process it writes the extents itself; else they go to the parent through shared
    memory, and the parent writes them in order.
    """
    claims = Claims()
    tally = Tally(job.writer)
    in_line = tally.placer is None or tally.placer.shared
    turns: _Turns = _InLine(job.writer.start, tally.placer) if in_line else _AtParent(tally)
    memories = [None if job.sink.shared else shared_memory() for _ in range(count)]
    inbox = Inbox(job.sink)

    def work(number: int, pipe: Any) -> None:
        post, memory = Post(pipe), memories[number]
        courier = Courier(post, memory) if memory is not None else None
        for index, encoded, (start, answer) in _encoded(job, claims, turns, post):
            extents = job.encoder.extents(encoded, start, answer)
            if courier is not None:
                courier.send(index, extents)
            else:
                for extent in in_pieces(extents):
                    job.sink.write(extent)

    with forked(count, work) as workers:
        for extent in job.writer.headers():
            job.sink.write(extent)
        for worker, message in messages(workers, lambda: job.progress(turns.done)):
            memory = memories[worker.number]
            if isinstance(message, Message):
                assert memory is not None
                inbox.take(message, worker.pipe, memory)
            else:
                turns.take(message, worker)
    job.progress(turns.done)
    return turns.outcome()


class _Turns(ABC):
    """Gives batches their place, in order."""

    @property
    @abstractmethod
    def done(self) -> int:
        """Bytes of guest memory that have their place."""

    @abstractmethod
    def place(self, index: int, encoded: _Encoded, post: Post, *, wait: bool) -> _Place | None:
        """A worker wants the place of batch ``index``.

        Args:
            index: The batch's number; a worker has one after the other placed.
            encoded: What became of it.
            post: The worker's.
            wait: Wait until it is settled; else None when it is not yet.
        """

    def take(self, message: Any, worker: Worker) -> None:
        """The parent has got a message from a worker that waits for a place."""

    @abstractmethod
    def outcome(self) -> Outcome:
        """What all batches add up to."""


class _InLine(_Turns):
    """Workers find their places among themselves: what that takes lies in memory that all of them share."""

    TICKET, OFFSET, DONE, ZERO, TAKEN, LOST, FIRST_LOST = range(7)

    def __init__(self, start: int, placer: Placer[Any, Any] | None) -> None:
        self._placer = placer
        context = get_context("fork")
        self._turn = context.Condition(context.Lock())
        self._map = mmap.mmap(-1, mmap.PAGESIZE)
        self._numbers = memoryview(self._map).cast("q")
        self._numbers[self.OFFSET] = start

    @property
    def done(self) -> int:
        return self._numbers[self.DONE]

    def place(self, index: int, encoded: _Encoded, post: Post, *, wait: bool) -> _Place | None:
        numbers = self._numbers
        with self._turn:
            while numbers[self.TICKET] != index:
                if not wait:
                    return None
                self._turn.wait()
            start = numbers[self.OFFSET]
            size, answer = placed(self._placer, encoded, start)
            numbers[self.OFFSET] = start + size
            numbers[self.TICKET] = index + 1
            numbers[self.DONE] += encoded.size
            numbers[self.ZERO] += encoded.zero_size
            numbers[self.TAKEN] += encoded.taken_size
            if encoded.first_lost is not None and not numbers[self.LOST]:
                numbers[self.FIRST_LOST] = encoded.first_lost
            numbers[self.LOST] += encoded.lost_size
            self._turn.notify_all()
            return start, answer

    def outcome(self) -> Outcome:
        numbers = self._numbers
        lost = numbers[self.LOST]
        first_lost = numbers[self.FIRST_LOST] if lost else None
        return Outcome(numbers[self.OFFSET], numbers[self.ZERO], numbers[self.TAKEN], lost, first_lost)


class _AtParent(_Turns):
    """The parent has the placer: workers send it what it needs to know of a batch, and get the batch's place.

    A worker sends the next batch when it has the place of the last one, so that neither can wait for room in the pipe
    while the other does.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._waiting: dict[int, tuple[_Encoded, Worker]] = {}
        self._next = 0
        #: In a worker: the batch whose place the parent has been asked for.
        self._asked = -1

    @property
    def done(self) -> int:
        return self._tally.done

    def place(self, index: int, encoded: _Encoded, post: Post, *, wait: bool) -> _Place | None:
        if self._asked != index:
            post.send((index, replace(encoded, payload=None, table=None)))
            self._asked = index
        return post.place(wait=wait)

    def take(self, message: tuple[int, _Encoded], worker: Worker) -> None:
        index, encoded = message
        self._waiting[index] = encoded, worker
        while self._next in self._waiting:
            encoded, worker = self._waiting.pop(self._next)
            with contextlib.suppress(BrokenPipeError):  # it has died, which messages() notices
                worker.pipe.send(self._tally.place(encoded))
            self._next += 1

    def outcome(self) -> Outcome:
        return self._tally.outcome()


def _encoded(job: Job, claims: Claims, turns: _Turns, post: Post) -> Iterator[tuple[int, _Encoded, _Place]]:
    """The batches that this worker gets, each with its number and its place, in ascending order."""
    free: list[Callable[[Spec], _Encoded]] = []
    pending: deque[tuple[int, _Encoded, Callable[[Spec], _Encoded]]] = deque()
    wanted = claims.claim()
    for number, spec in enumerate(job.encoding.specs()):
        if number != wanted:
            continue
        # The buffer that was used last is still in the processor's cache.
        encode = free.pop() if free else job.encoding.worker()
        pending.append((number, encode(spec), encode))
        while pending:
            index, oldest, encode = pending[0]
            place = turns.place(index, oldest, post, wait=len(pending) > MAX_PENDING)
            if place is None:
                break
            pending.popleft()
            yield index, oldest, place
            free.append(encode)
        wanted = claims.claim()
    for index, encoded, _ in pending:
        place = turns.place(index, encoded, post, wait=True)
        assert place is not None
        yield index, encoded, place
