"""How extents get from a worker to the process that writes them, in bounded pieces and in order."""

from __future__ import annotations

import contextlib
import mmap
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from pydump.interfaces.executor import PIECE_SIZE, in_pieces
from pydump.interfaces.sink import Extent, Hole, Sink

#: Shared memory for one message: a piece, and the page descriptors that most batches have beside one.
SLOT_SIZE: Final = PIECE_SIZE + (64 << 10)
#: Messages of one worker that may be on their way.
SLOTS: Final = 3


@dataclass(frozen=True, slots=True)
class Message:
    """Some or all extents of a batch.

    Attributes:
        index: The batch's number.
        slot: Where their bytes are, in the worker's shared memory.
        pieces: ``(offset in the output, place in the slot or -1 for a hole, size)`` of each.
        last: Whether these are the batch's last.
    """

    index: int
    slot: int
    pieces: tuple[tuple[int, int, int], ...]
    last: bool


def shared_memory() -> mmap.mmap:
    """Room for the messages of one worker."""
    return mmap.mmap(-1, SLOT_SIZE * SLOTS)


class Post:
    """A worker's end of the pipe to the parent, from which come slots that the parent has done with, and places.

    Args:
        pipe: The pipe.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._slots = deque(range(SLOTS))
        self._places = deque[tuple[int, Any]]()

    def send(self, message: Any) -> None:
        """Send something to the parent."""
        self._pipe.send(message)

    def slot(self) -> int:
        """A slot that is free, once there is one.

        Raises:
            EOFError: The parent is gone.
        """
        while not self._slots or self._pipe.poll():
            self._take()
        return self._slots.popleft()

    def place(self, *, wait: bool) -> tuple[int, Any] | None:
        """The next place that the parent has sent; without ``wait`` None when there is none yet.

        Raises:
            EOFError: The parent is gone.
        """
        while (wait and not self._places) or self._pipe.poll():
            self._take()
        return self._places.popleft() if self._places else None

    def _take(self) -> None:
        message = self._pipe.recv()
        if isinstance(message, int):
            self._slots.append(message)
        else:
            self._places.append(message)


class Courier:
    """Sends a worker's extents.

    Args:
        post: Carries messages to the parent.
        memory: What both see.
    """

    def __init__(self, post: Post, memory: mmap.mmap) -> None:
        self._post = post
        self._view = memoryview(memory)

    def send(self, index: int, extents: Iterable[Extent | Hole]) -> None:
        """Send a batch's extents, each piece once there is room.

        Raises:
            EOFError: The parent is gone.
        """
        slot, used = self._post.slot(), 0
        pieces: list[tuple[int, int, int]] = []
        for extent in in_pieces(extents):
            if isinstance(extent, Hole):
                pieces.append((extent.offset, -1, extent.size))
                continue
            if used + extent.size > SLOT_SIZE:
                self._post.send(Message(index, slot, tuple(pieces), last=False))
                slot, used = self._post.slot(), 0
                pieces = []
            at = slot * SLOT_SIZE + used
            self._view[at : at + extent.size] = memoryview(extent.data).cast("B")
            pieces.append((extent.offset, used, extent.size))
            used += extent.size
        self._post.send(Message(index, slot, tuple(pieces), last=True))


class Inbox:
    """The parent's end: writes what workers send, batch after batch.

    It cannot wait for ever: a batch is sent once all before it have their place, so that the worker whose batch comes
    next is never held up by what another one has sent.

    Args:
        sink: Where extents go.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._waiting: dict[int, deque[tuple[Message, Any, memoryview]]] = {}
        self._next = 0

    def take(self, message: Message, pipe: Any, memory: mmap.mmap) -> None:
        """Write a message, and all that waited for it; or keep it until its turn.

        Args:
            message: What came.
            pipe: The worker's, which is told that the slot is free.
            memory: Where the worker's slots are.

        Raises:
            SinkError: It could not be written.
        """
        self._waiting.setdefault(message.index, deque()).append((message, pipe, memoryview(memory)))
        while self._waiting.get(self._next):
            message, pipe, view = self._waiting[self._next].popleft()
            for offset, place, size in message.pieces:
                at = message.slot * SLOT_SIZE + place
                self._sink.write(Hole(offset, size) if place < 0 else Extent(offset, view[at : at + size]))
            with contextlib.suppress(BrokenPipeError):  # it has sent its last message, and ended
                pipe.send(message.slot)
            if message.last:
                del self._waiting[self._next]
                self._next += 1
