"""Two formats with one half each: a tape, which is read, and plain memory, which is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydump.builtin.raw import BytesImage
from pydump.hookspecs import hookimpl
from pydump.interfaces.format import Format, Opened
from pydump.interfaces.image import MemoryImage
from pydump.interfaces.sink import Extent, Hole
from pydump.interfaces.writer import Batch, Encoded, Encoder, Writer
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap
from pydump.model.plan import Plan
from pydump.options import option

MAGIC = b"tape\n"


class TapeImage(BytesImage):
    """Memory from 0 on, and what stands in the label beside it."""

    def __init__(self, opened: Opened) -> None:
        (file,) = opened.files
        memory = file.read(len(MAGIC), file.size - len(MAGIC))
        super().__init__(Guest(MemoryMap.of([])), {opened.options.start: memory})
        self.label = opened.sibling("label")
        self.strange = [opened.sibling(name) for name in ("../label", "/etc/passwd", "nosuch", "", ".")]


@dataclass(frozen=True, slots=True)
class TapeReaderOptions:
    start: int = option(0, help="where the tape begins")


class TapeFormat(Format):
    """Only read."""

    name: ClassVar[str] = "tape"
    carries: ClassVar[frozenset[str]] = frozenset()
    ReaderOptions: ClassVar[type] = TapeReaderOptions

    @classmethod
    def detect(cls, head: bytes) -> bool:
        return head.startswith(MAGIC)

    @classmethod
    def open(cls, opened: Opened) -> MemoryImage:
        return TapeImage(opened)


@dataclass(frozen=True, slots=True)
class PlainEncoder(Encoder[None]):
    def encode(self, batch: Batch) -> Encoded[None]:
        return Encoded(batch.position, 0, batch.data, None, batch.size, 0)

    def extents(self, encoded: Encoded[None], start: int, answer: None = None) -> Iterator[Extent | Hole]:
        if encoded.payload is not None:
            yield Extent(encoded.position, encoded.payload)


class PlainWriter(Writer):
    """All of RAM end to end, with zeros for what is not there."""

    sequential: ClassVar[bool] = True

    def __init__(self, plan: Plan) -> None:
        self.stored = plan.guest.memory.ranges()
        self.unit = 1
        self.start = 0
        self.size_limit = self.stored.size

    def headers(self) -> Iterator[Extent | Hole]:
        return iter(())

    def encoder(self) -> Encoder[Any]:
        return PlainEncoder()

    def size(self, end: int) -> int:
        return self.size_limit


class PlainFormat(Format):
    """Only written."""

    name: ClassVar[str] = "plain"
    carries: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def writer(cls, plan: Plan, compressor: Any) -> Writer:
        return PlainWriter(plan)


@hookimpl
def pydump_register_formats() -> Sequence[type[Format]]:
    return [PlainFormat, TapeFormat]
