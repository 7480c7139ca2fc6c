"""The format role: what a vmcore looks like, read and written. A format does no I/O of its own.

A :class:`Format` is a light class that can be asked for its name and whether a file is its own; its reader and its
writer are loaded when one is wanted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydump.errors import UnsupportedError
from pydump.interfaces.backing import Backing
from pydump.interfaces.sink import Extent, Hole
from pydump.options import NoOptions

if TYPE_CHECKING:
    from pydump.interfaces.compressor import Compressor
    from pydump.interfaces.source import Source, StoredPages
    from pydump.model.memory import Ranges
    from pydump.model.plan import Plan


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


class KernelFile(ABC):
    """The file that a kernel was linked to, with its symbols.

    Attributes:
        path: What to call it in messages.
        build_id: Its build id in hexadecimal, or None.
    """

    path: str
    build_id: str | None

    @abstractmethod
    def symbol(self, name: str) -> int | None:
        """The address that a symbol was linked to, or None where there is no such symbol."""


class Format(ABC):
    """A kind of vmcore."""

    #: Its registry name: ``--format kdump``.
    name: ClassVar[str]
    #: Other names people know, each with the settings it implies: ``{"kdump-lzo": {"compression": "lzo"}}``.
    aliases: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    #: Names of the compressors it has a number for, best known first; empty if it does not compress.
    compressors: ClassVar[tuple[str, ...]] = ()
    #: Can one dump be split over several files?
    splits: ClassVar[bool] = False
    #: Does it hold whole pages only?
    whole_pages: ClassVar[bool] = False
    #: Does it store all zero pages as one? Then leaving them out saves nothing.
    shares_zero_pages: ClassVar[bool] = False
    #: A run that a filter left out is stored all the same if it is shorter than this many bytes: each costs a header.
    least_hole: ClassVar[int] = 0
    #: Has it a place for the virtual addresses of memory?
    maps_vaddrs: ClassVar[bool] = False
    Options: ClassVar[type] = NoOptions

    @classmethod
    @abstractmethod
    def detect(cls, head: bytes) -> bool:
        """Is a file that begins with ``head`` (up to 4096 bytes) of this format?"""

    @classmethod
    @abstractmethod
    def open(cls, files: Sequence[Backing], compressor: Decompressors) -> Source:
        """A reader.

        Args:
            files: The file, or the parts of a split dump in any order.
            compressor: Gives the compressor of a name, or raises UnknownPluginError saying what to install.

        Raises:
            FormatError: The file's structure is damaged.
        """

    @classmethod
    def kernel(cls, file: Backing) -> KernelFile:
        """The kernel that a file of this format holds, as vmlinux does. All that is needed of the file is read at once.

        Raises:
            FormatError: The file is damaged, or has no symbols.
            UnsupportedError: No file of this format holds a kernel.
        """
        raise UnsupportedError(f"{file.path} is {cls.name}, which holds no kernel's symbols", hint="name a vmlinux")

    @classmethod
    def machine_name(cls, machine: int) -> str | None:
        """What the format calls an ELF e_machine, or None."""
        return None

    @classmethod
    def note_type_name(cls, name: str, type_: int) -> str | None:
        """What the format calls the type of a note of that name, or None."""
        return None

    @classmethod
    @abstractmethod
    def writer(cls, plan: Plan, compressor: Compressor | None) -> Writer:
        """A writer for ``plan``.

        Raises:
            UnsupportedError: The format cannot express what the plan holds.
        """


class Decompressors(ABC):
    """How a reader gets a compressor by name."""

    @abstractmethod
    def __call__(self, name: str) -> Compressor:
        """The compressor ``name``.

        Raises:
            UnknownPluginError: It is not installed; the hint says what to install.
        """
