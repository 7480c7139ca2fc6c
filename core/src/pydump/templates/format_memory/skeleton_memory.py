"""Skeleton files: a magic line, a table of ranges, and the memory of all ranges end to end. They hold nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from pydump.errors import FormatError, UnsupportedError
from pydump.hookspecs import hookimpl
from pydump.interfaces.backing import Backing
from pydump.interfaces.compressor import Compressor
from pydump.interfaces.format import Format, Opened
from pydump.interfaces.image import MemoryImage
from pydump.interfaces.pieces import PiecesImage, held_pieces
from pydump.interfaces.sink import Extent, Hole
from pydump.interfaces.writer import Batch, Encoded, Encoder, Writer
from pydump.layout.struct import U64, Layout
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.plan import Plan

MAGIC: Final = b"skeleton memory\n"
#: A file has at most this many ranges.
MAX_RANGES: Final = 1 << 20
#: No guest has more RAM.
MAX_RAM: Final = 1 << 47


class Count(Layout):
    """How many ranges the table has. Little-endian."""

    ranges: U64 = 0


class Range(Layout):
    """A range of guest memory. Little-endian."""

    paddr: U64 = 0
    size: U64 = 0


TABLE: Final = len(MAGIC) + Count.nbytes()


@dataclass(frozen=True, slots=True)
class SkeletonEncoder(Encoder[None]):
    """Leaves bytes as they are.

    Attributes:
        start: Where in the file the first byte of memory lies.
    """

    start: int

    def encode(self, batch: Batch) -> Encoded[None]:
        return Encoded(batch.position, 0, batch.data, None, batch.size, 0 if batch.data else batch.size)

    def extents(self, encoded: Encoded[None], start: int, answer: None = None) -> Iterator[Extent | Hole]:
        at = self.start + encoded.position
        yield Hole(at, encoded.size) if encoded.payload is None else Extent(at, encoded.payload)


class SkeletonWriter(Writer):
    """Writes the memory that is there. Memory that was left out is in no range."""

    sequential: ClassVar[bool] = True

    def __init__(self, plan: Plan) -> None:
        self.stored = plan.readable()
        self.unit = 1
        if len(self.stored) > MAX_RANGES:
            raise UnsupportedError(f"memory is in {len(self.stored)} ranges, and a file has at most {MAX_RANGES}")
        rows = [Range(start, end - start).pack("little") for start, end in self.stored]
        self._head = MAGIC + Count(len(rows)).pack("little") + b"".join(rows)
        self.start = len(self._head)
        self.size_limit = self.start + self.stored.size

    def headers(self) -> Iterator[Extent | Hole]:
        yield Extent(0, self._head)

    def encoder(self) -> SkeletonEncoder:
        return SkeletonEncoder(self.start)

    def size(self, end: int) -> int:
        return self.size_limit


class SkeletonImage(PiecesImage):
    """A skeleton file.

    Raises:
        FormatError: Its table is damaged.
    """

    def __init__(self, backing: Backing) -> None:
        rows = _rows(backing)
        pieces, self._lost = held_pieces(backing, rows)
        ram = Ranges.of((paddr, paddr + size) for paddr, _, size in rows)
        super().__init__(backing, pieces, MemoryMap.of((start, end - start) for start, end in ram))

    def guest(self) -> Guest:
        """The map of RAM. The rest of the facts comes from options such as --arch."""
        return Guest(self._memory)

    def unreadable(self) -> Ranges:
        return self._lost

    def warnings(self) -> tuple[str, ...]:
        cut = (f"the file is cut off: {self._lost.size} bytes of guest memory are lost",) if self._lost else ()
        return (*self._backing.warnings, *cut)


def _rows(backing: Backing) -> list[tuple[int, int, int]]:
    """The paddr, offset in the file and size of each range; refuses a table that cannot be true."""
    count = Count.unpack(backing.read(len(MAGIC), Count.nbytes()), "little").ranges
    if not 0 < count <= MAX_RANGES:
        raise FormatError(backing.path, f"it claims to have {count} ranges", offset=len(MAGIC))
    table = backing.read(TABLE, count * Range.nbytes())
    rows, offset = [], TABLE + len(table)
    for at in range(0, len(table), Range.nbytes()):
        found = Range.unpack(table[at : at + Range.nbytes()], "little")
        if not found.size or found.size > MAX_RAM or found.paddr + found.size >= 1 << 64:
            raise FormatError(backing.path, f"a range of {found.size:#x} bytes at {found.paddr:#x}", offset=TABLE + at)
        rows.append((found.paddr, offset, found.size))
        offset += found.size
    return rows


class SkeletonFormat(Format):
    """Memory alone."""

    name: ClassVar[str] = "skeleton"
    #: It has no place for notes, VMCOREINFO, the architecture, or which pages were left out.
    carries: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def detect(cls, head: bytes) -> bool:
        return head.startswith(MAGIC)

    @classmethod
    def open(cls, opened: Opened) -> MemoryImage:
        return SkeletonImage(opened.files[0])

    @classmethod
    def writer(cls, plan: Plan, compressor: Compressor | None) -> Writer:
        return SkeletonWriter(plan)


@hookimpl
def pydump_register_formats() -> Sequence[type[Format]]:
    """``--format skeleton``."""
    return [SkeletonFormat]
