"""How a format writes: pages become extents of the output, a batch at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydump.interfaces.sink import Extent, Hole

if TYPE_CHECKING:
    from pydump.interfaces.image import StoredPages
    from pydump.model.memory import Ranges


@dataclass(frozen=True, slots=True)
class Batch:
    """A piece of the stored stream: all bytes that a writer asked for in :attr:`Writer.stored`, end to end.

    Attributes:
        position: Where in the stream it begins.
        size: Bytes; of a writer that works in pages, a multiple of the page size.
        data: The bytes, valid until what became of them is written; None when all are known to be zero, or where
            ``stored`` is there in their place.
        stored: The pages as the source's file holds them; only where the writer asks with :attr:`Writer.takes`.
        lost: ``(start, end)`` in bytes from the batch's begin of pages that are damaged in the source. They are zero in
            ``data``; a format that can say which pages are lost says so of them.
    """

    position: int
    size: int
    data: memoryview | None
    stored: StoredPages | None = None
    lost: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Encoded:
    """What became of a batch. It may refer to the batch's data, which stays as it is until all of it is written.

    Attributes:
        position: The batch's.
        grows: Bytes of payload whose place depends on the batches before it; 0 for a format without any.
        payload: The bytes to write, as many as the format needs, or None when there are none.
        table: A second stream such as page descriptors, as the writer likes it.
        size: Bytes of guest memory in it.
        zero_size: Bytes of those in pages of zeros, as far as the writer looked.
        taken_size: Bytes of those in pages that were taken over as the source's file holds them, unread.
        lost_size: Bytes of those in pages that are damaged in the source. The engine fills this in, and the next.
        first_lost: The paddr of the first such page, or None.
    """

    position: int
    grows: int
    payload: bytes | bytearray | memoryview | None
    table: Any
    size: int
    zero_size: int
    taken_size: int = 0
    lost_size: int = 0
    first_lost: int | None = None


class Writer(ABC):
    """Turns one plan into extents. Workers are forked from the process that made it; ``encode`` runs in any of them.

    Attributes:
        stored: The ranges of guest memory it wants, ascending; their bytes end to end are the stored stream. They may
            reach beyond RAM (to fill the last page): such bytes are zero.
        unit: Batches begin and end at multiples of this many bytes of the stream.
        start: Offset in the output at which the first batch's payload begins.
        size_limit: The output is at most this long.
    """

    #: The compression of stored pages that it takes over as they are ("none" for raw ones), or None if it wants bytes.
    takes: str | None = None
    #: Bytes of tables that have an entry for each page, and are written even where all of memory is known to be zero.
    tables_size: int = 0
    #: Bytes of pages that turned out to be damaged in the source; the engine sets it before it calls :meth:`finish`.
    lost_size: int = 0
    #: Does the output say which pages are lost? Else they are zero there.
    marks_lost: ClassVar[bool] = False
    #: Do all extents come in ascending order of offset? Then the output can go down a pipe as it is.
    sequential: ClassVar[bool] = False
    #: Bytes of a batch that is known to be zero, at most: bounded by what the writer makes of such a batch.
    max_hole: ClassVar[int] = 256 << 20

    stored: Ranges
    unit: int
    start: int
    size_limit: int

    @abstractmethod
    def layout(self) -> Iterator[Extent | Hole]:
        """Headers, bitmaps, tables: what is known before a page is read."""

    @abstractmethod
    def encode(self, batch: Batch) -> Encoded:
        """The expensive part: what comes of it depends on the plan and the batch alone."""

    def place(self, encoded: Encoded, start: int) -> Encoded:
        """The ordered part: called for each batch in the order of the stream, in whichever process has it.

        A writer whose output depends on batches before this one settles it here, in memory that forked processes
        share. Everyone waits meanwhile, so that it should be short.

        Args:
            encoded: What ``encode`` returned.
            start: Where its payload begins.

        Returns:
            What is written; its ``grows`` is final.
        """
        return encoded

    @abstractmethod
    def extents(self, encoded: Encoded, start: int) -> Iterator[Extent | Hole]:
        """What to write for a batch whose payload begins at ``start``."""

    def finish(self, end: int) -> Iterator[Extent | Hole]:
        """What comes after the last payload, which ends at ``end``."""
        return iter(())

    def size(self, end: int) -> int:
        """The output's length in bytes when the last payload ends at ``end``."""
        return end
