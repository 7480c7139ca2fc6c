"""How extents get from a worker to the process that writes them, in bounded pieces and in order."""

from __future__ import annotations

import contextlib
import mmap
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydump.interfaces.sink import Extent, Hole, Sink

#: A longer extent is cut at multiples of this, by every executor: a flattened stream has a record for each piece.
PIECE_SIZE: Final = 4 << 20
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


def in_pieces(extents: Iterable[Extent | Hole]) -> Iterator[Extent | Hole]:
    """The same extents, none of which holds more than :data:`PIECE_SIZE` bytes."""
    for extent in extents:
        if isinstance(extent, Hole) or extent.size <= PIECE_SIZE:
            yield extent
            continue
        view = memoryview(extent.data).cast("B")
        for at in range(0, extent.size, PIECE_SIZE):
            yield Extent(extent.offset + at, view[at : at + PIECE_SIZE])


def shared_memory() -> mmap.mmap:
    """Room for the messages of one worker."""
    return mmap.mmap(-1, SLOT_SIZE * SLOTS)


class Courier:
    """A worker's end.

    Args:
        pipe: Carries messages to the parent, and the slots that it has done with back.
        memory: What both see.
    """

    def __init__(self, pipe: Any, memory: mmap.mmap) -> None:
        self._pipe = pipe
        self._view = memoryview(memory)
        self._free = deque(range(SLOTS))

    def send(self, index: int, extents: Iterable[Extent | Hole]) -> None:
        """Send a batch's extents, each piece once there is room.

        Raises:
            EOFError: The parent is gone.
        """
        slot, used = self._slot(), 0
        pieces: list[tuple[int, int, int]] = []
        for extent in in_pieces(extents):
            if isinstance(extent, Hole):
                pieces.append((extent.offset, -1, extent.size))
                continue
            if used + extent.size > SLOT_SIZE:
                self._pipe.send(Message(index, slot, tuple(pieces), last=False))
                slot, used = self._slot(), 0
                pieces = []
            at = slot * SLOT_SIZE + used
            self._view[at : at + extent.size] = memoryview(extent.data).cast("B")
            pieces.append((extent.offset, used, extent.size))
            used += extent.size
        self._pipe.send(Message(index, slot, tuple(pieces), last=True))

    def _slot(self) -> int:
        """A slot that is free, once there is one."""
        while not self._free or self._pipe.poll():
            self._free.append(self._pipe.recv())
        return self._free.popleft()


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
