"""How a format writes: pages become extents of the output, a batch at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from pydump.interfaces.sink import Extent, Hole

if TYPE_CHECKING:
    from pydump.interfaces.image import StoredPages
    from pydump.model.memory import Ranges

#: What an encoder keeps of a batch for itself; what a placer is told of it; what it answers.
_T = TypeVar("_T")
_S = TypeVar("_S")
_A = TypeVar("_A")


class Batch(NamedTuple):
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
class Encoded(Generic[_T]):
    """What became of a batch. It may refer to the batch's data, which stays as it is until all of it is written.

    It can be pickled: a payload that refers to the batch's data becomes bytes of its own.

    Attributes:
        position: The batch's.
        payload_size: Bytes of payload whose place depends on the batches before it; 0 for a format without any, and
            where the placer says how many they are.
        payload: The bytes to write, as many as the format needs, or None when there are none.
        table: What :meth:`Encoder.extents` needs beside the payload, such as page descriptors.
        size: Bytes of guest memory in it.
        zero_size: Bytes of those in pages of zeros, as far as the encoder looked.
        taken_size: Bytes of those in pages that were copied as the source's file stores them.
        summary: What the placer is to know of the batch: small, and picklable. None where it is not asked.
        lost_size: Bytes of those in pages that are damaged in the source. The engine fills this in, and the next.
        first_lost: The paddr of the first such page, or None.
    """

    position: int
    payload_size: int
    payload: bytes | bytearray | memoryview | None
    table: _T
    size: int
    zero_size: int
    taken_size: int = 0
    summary: Any = None
    lost_size: int = 0
    first_lost: int | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        values = [getattr(self, field.name) for field in fields(self)]
        if isinstance(self.payload, memoryview):
            values[2] = bytes(self.payload)
        return type(self), tuple(values)


class Encoder(ABC, Generic[_T]):
    """Turns batches into what is written of them: a frozen dataclass of what that takes, and nothing else.

    It is pickled and runs in any process, on any host, which may encode any of the batches in any order. What comes
    out depends on its fields and the batch alone.
    """

    @abstractmethod
    def encode(self, batch: Batch) -> Encoded[_T]:
        """The expensive part."""

    @abstractmethod
    def extents(self, encoded: Encoded[_T], start: int, answer: Any = None) -> Iterator[Extent | Hole]:
        """What to write for a batch that has its place.

        Args:
            encoded: What :meth:`encode` returned.
            start: Where in the output its payload begins.
            answer: What the placer said; None where it was not asked.
        """

    def max_payload(self, size: int) -> int:
        """The most bytes of payload that a batch of ``size`` bytes becomes."""
        return size


class Placer(ABC, Generic[_S, _A]):
    """The ordered part of a writer whose output depends on the batches before: it may keep what it likes.

    It runs in one place, the process that made it, and is asked for each batch in the order of the stream. Every
    worker waits for it, so it is quick.
    """

    #: Whether all that changes in it lies in memory that forked processes share. Then forked workers call it
    #: themselves, one at a time and in order, which saves a message for each batch.
    shared: ClassVar[bool] = False

    @abstractmethod
    def place(self, summary: _S, start: int) -> tuple[int, _A]:
        """Decide what is written of a batch.

        Args:
            summary: The batch's :attr:`Encoded.summary`, which is not None.
            start: Where its payload begins.

        Returns:
            The bytes of its payload, and what :meth:`Encoder.extents` is told, which can be pickled.
        """


class Writer(ABC):
    """Turns one plan into extents: headers first, then batch by batch what its encoder makes of them.

    Attributes:
        stored: The ranges of guest memory it wants, ascending; their bytes end to end are the stored stream. They may
            reach beyond RAM (to fill the last page): such bytes are zero.
        unit: Batches begin and end at multiples of this many bytes of the stream.
        start: Offset in the output at which the first batch's payload begins.
        size_limit: The output is at most this long.
    """

    #: The compression of stored pages that it copies ("none" for raw ones), or None if it wants bytes.
    takes: str | None = None
    #: Bytes of tables that have an entry for each page, and are written even where all of memory is known to be zero.
    tables_size: int = 0
    #: Bytes of pages that turned out to be damaged in the source; the engine sets it before it calls :meth:`finish`.
    lost_size: int = 0
    #: Whether the output says which pages are lost. Else they are zero there.
    marks_lost: ClassVar[bool] = False
    #: What this dump holds beside memory, where not every dump of its format holds it; see ``Format.carries``.
    carries: frozenset[str] = frozenset()
    #: Whether all extents come in ascending order of offset. Then the output can go down a pipe as it is.
    sequential: ClassVar[bool] = False
    #: Bytes of a batch that is known to be zero, at most. What the writer makes of such a batch bounds it.
    max_hole: ClassVar[int] = 256 << 20

    stored: Ranges
    unit: int
    start: int
    size_limit: int

    @abstractmethod
    def headers(self) -> Iterator[Extent | Hole]:
        """Headers, bitmaps, tables: what is known before a page is read."""

    @abstractmethod
    def encoder(self) -> Encoder[Any]:
        """What encodes the batches."""

    def placer(self) -> Placer[Any, Any] | None:
        """What is asked, batch by batch, where its payload goes; None where payloads lie end to end."""
        return None

    def finish(self, end: int) -> Iterator[Extent | Hole]:
        """What comes after the last payload, which ends at ``end``."""
        return iter(())

    def beside(self) -> Mapping[str, bytes]:
        """Small files to write beside the output: what is put after its name, and their content."""
        return {}

    def remarks(self, output: str) -> tuple[str, ...]:
        """What the user should know of the file ``output``, a line each: how it is read if its name is not enough."""
        return ()

    def size(self, end: int) -> int:
        """The output's length in bytes when the last payload ends at ``end``."""
        return end
