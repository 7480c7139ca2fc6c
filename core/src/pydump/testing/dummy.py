"""A plugin of each role, made of nothing: core's own tests run on these alone.

The format is a line of JSON, padded to 4096 bytes, then a frame for each batch: the length of what follows, the length
of what it was made of, and the batch's bytes, compressed as a whole.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydump.errors import CompressionError, FormatError, PlanError, SinkError, SourceError
from pydump.hookspecs import hookimpl
from pydump.interfaces.arch import Arch
from pydump.interfaces.backing import Backing
from pydump.interfaces.compressor import Compressor
from pydump.interfaces.format import Decompressors, Format, Opened
from pydump.interfaces.image import MemoryImage
from pydump.interfaces.sink import Extent, Hole, Placement, Sink
from pydump.interfaces.storage import Storage
from pydump.interfaces.writer import Batch, Encoded, Encoder, Writer
from pydump.layout.registers import NoteKind, run
from pydump.model.guest import ByteOrder, Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.note import Note
from pydump.model.plan import Plan

MAGIC = b"DUMMYDUMP "
HEADER_SIZE = 4096


class DummyArch(Arch):
    """A machine with two registers."""

    name: ClassVar[str] = "dummy"
    aliases: ClassVar[tuple[str, ...]] = ("dummy64",)
    machine: ClassVar[int] = 0xD0D0
    byte_order: ClassVar[ByteOrder] = "little"
    elf_class: ClassVar[int] = 64
    page_sizes: ClassVar[tuple[int, ...]] = (4096,)
    note_kinds: ClassVar[tuple[NoteKind, ...]] = (NoteKind("PRSTATUS", "CORE", 1, 16, run(0, 8, "pc sp")),)


class DummyCompressor(Compressor):
    """Leaves out zeros at the end."""

    name: ClassVar[str] = "dummy"

    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        return bytes(data).rstrip(b"\0")

    def decompress(self, data: bytes | bytearray | memoryview, size: int) -> bytes:
        if len(data) > size:
            raise CompressionError(self.name, f"{len(data)} bytes, and the page has {size}")
        return bytes(data).ljust(size, b"\0")


@dataclass(frozen=True)
class DummyEncoder(Encoder[None]):
    """Makes a frame of a batch."""

    compressor: Compressor | None

    def encode(self, batch: Batch) -> Encoded[None]:
        data = bytes(batch.size) if batch.data is None else batch.data
        packed = self.compressor.compress(data) if self.compressor else bytes(data)
        frame = struct.pack(">II", len(packed), batch.size) + packed
        return Encoded(batch.position, len(frame), frame, None, batch.size, 0 if packed else batch.size)

    def extents(self, encoded: Encoded[None], start: int, answer: None = None) -> Iterator[Extent | Hole]:
        assert encoded.payload is not None
        yield Extent(start, encoded.payload)

    def max_payload(self, size: int) -> int:
        return 8 + size


class DummyWriter(Writer):
    """Frames, whose place depends on all frames before."""

    sequential: ClassVar[bool] = True

    def __init__(self, plan: Plan, compressor: Compressor | None) -> None:
        guest = plan.guest
        self._compressor = compressor
        self.stored = plan.readable()
        self.unit = guest.page_size or 4096
        self.start = HEADER_SIZE
        self.size_limit = HEADER_SIZE + 2 * self.stored.size
        facts = {
            "arch": guest.arch,
            "byte_order": guest.byte_order,
            "compression": plan.compression,
            "stored": list(self.stored),
            "notes": [[n.name, n.type, n.desc.hex()] for n in guest.notes],
        }
        self._header = MAGIC + json.dumps(facts).encode()
        if len(self._header) > HEADER_SIZE:
            raise PlanError("a dummy dump has room for few ranges")

    def headers(self) -> Iterator[Extent | Hole]:
        yield Extent(0, self._header.ljust(HEADER_SIZE, b" "))

    def encoder(self) -> Encoder[Any]:
        return DummyEncoder(self._compressor)


class DummyImage(MemoryImage):
    """Reads what DummyWriter wrote, all of it at once."""

    def __init__(self, backing: Backing, compressor: Decompressors) -> None:
        head = backing.read(0, HEADER_SIZE)
        try:
            self._facts = json.loads(head[len(MAGIC) :])
        except ValueError as error:
            raise FormatError(backing.path, f"its header is not JSON: {error}", offset=0) from None
        codec = None if self._facts["compression"] == "none" else compressor(self._facts["compression"])
        stream = bytearray()
        at = HEADER_SIZE
        while at < backing.size:
            length, size = struct.unpack(">II", backing.read(at, 8))
            packed = backing.read(at + 8, length)
            stream += codec.decompress(packed, size) if codec else packed
            at += 8 + length
        self._stored = Ranges.of(map(tuple, self._facts["stored"]))
        self._stream = stream

    def guest(self) -> Guest:
        return Guest(
            MemoryMap.of((start, end - start) for start, end in self._stored),
            arch=self._facts["arch"],
            byte_order=self._facts["byte_order"],
            elf_class=64,
            notes=tuple(Note(name, type_, bytes.fromhex(desc)) for name, type_, desc in self._facts["notes"]),
        )

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        at = 0
        for start, end in self._stored:
            first, last = max(start, paddr), min(end, paddr + len(buffer))
            if first < last:
                buffer[first - paddr : last - paddr] = self._stream[at + first - start : at + last - start]
            at += end - start


class DummyFormat(Format):
    """JSON and frames."""

    name: ClassVar[str] = "dummy"
    compressors: ClassVar[tuple[str, ...]] = ("dummy",)
    carries: ClassVar[frozenset[str]] = frozenset({"notes", "registers", "arch"})

    @classmethod
    def detect(cls, head: bytes) -> bool:
        return head.startswith(MAGIC)

    @classmethod
    def open(cls, opened: Opened) -> MemoryImage:
        return DummyImage(opened.files[0], opened.decompressors)

    @classmethod
    def writer(cls, plan: Plan, compressor: Compressor | None) -> Writer:
        return DummyWriter(plan, compressor)


class MemorySink(Sink):
    """An output in memory.

    Args:
        url: Where it appears in :attr:`MemoryStorage.kept` when it is committed; nowhere, if empty.
        force: Replace what is there.

    Attributes:
        data: What was written.
        state: "open", "committed" or "aborted".
    """

    placement: ClassVar[Placement] = "anywhere"

    def __init__(self, url: str = "", *, force: bool = True) -> None:
        self.url = url
        self.force = force
        self.data = bytearray()
        self.state = "open"
        self.made: bytes | None = None

    def write(self, extent: Extent | Hole) -> None:
        end = extent.offset + extent.size
        self.data.extend(bytes(max(0, end - len(self.data))))
        self.data[extent.offset : end] = extent.data if isinstance(extent, Extent) else bytes(extent.size)

    def commit(self, size: int) -> None:
        self.data.extend(bytes(max(0, size - len(self.data))))
        if self.url in MemoryStorage.kept and not self.force:
            raise SinkError(f"{self.url} appeared while the dump was written; nothing was replaced")
        self.state = "committed"
        if self.url:
            self.made = MemoryStorage.kept[self.url] = bytes(self.data)

    def abort(self) -> None:
        self.state = "aborted"

    def retract(self) -> None:
        if MemoryStorage.kept.get(self.url) is self.made:
            del MemoryStorage.kept[self.url]


class MemoryBacking(Backing):
    """Bytes in memory."""

    def __init__(self, path: str, data: bytes) -> None:
        self.path = path
        self.size = len(data)
        self._data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return MemoryStorage.reader, (self.path,)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.check(offset, len(buffer))
        buffer[:] = self._data[offset : offset + len(buffer)]


class MemoryStorage(Storage):
    """``dummy://NAME``, in this process."""

    name: ClassVar[str] = "dummy"
    #: URL to content.
    kept: ClassVar[dict[str, bytes]] = {}

    @classmethod
    def reader(cls, url: str, options: Any = None) -> Backing:
        if url not in cls.kept:
            raise SourceError(f"there is no {url}")
        return MemoryBacking(url, cls.kept[url])

    @classmethod
    def writer(cls, url: str, options: Any = None, *, force: bool = False, sync: bool = True) -> Sink:
        if url in cls.kept and not force:
            raise PlanError(f"{url} exists", hint="choose another name, or replace it with --force")
        return MemorySink(url, force=force)


@hookimpl
def pydump_register_arches() -> Sequence[type[Arch]]:
    return [DummyArch]


@hookimpl
def pydump_register_formats() -> Sequence[type[Format]]:
    return [DummyFormat]


@hookimpl
def pydump_register_compressors() -> Sequence[type[Compressor]]:
    return [DummyCompressor]


@hookimpl
def pydump_register_storages() -> Sequence[type[Storage]]:
    return [MemoryStorage]
