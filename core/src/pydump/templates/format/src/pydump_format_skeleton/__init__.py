"""Skeleton files: a magic line, the length of a JSON header, the header, and all ranges of memory end to end."""

from __future__ import annotations

import json
import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import accumulate
from typing import Any, ClassVar

from pydump.errors import FormatError
from pydump.hookspecs import hookimpl
from pydump.interfaces.backing import Backing
from pydump.interfaces.compressor import Compressor
from pydump.interfaces.format import Format, Opened
from pydump.interfaces.image import MemoryImage
from pydump.interfaces.sink import Extent, Hole
from pydump.interfaces.writer import Batch, Encoded, Encoder, Writer
from pydump.model.guest import Guest, Utsname
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.note import Note
from pydump.model.plan import Plan
from pydump.model.vmcoreinfo import Vmcoreinfo

MAGIC = b"skeleton dump\n"
#: The header's length, which follows the magic.
LENGTH = struct.Struct("<Q")
HEADER = len(MAGIC) + LENGTH.size


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
    """The place of every byte of memory follows from the plan, so that nothing depends on the batches before."""

    sequential: ClassVar[bool] = True

    def __init__(self, plan: Plan) -> None:
        guest = plan.guest
        self.stored = plan.readable()
        self.unit = 1
        header = json.dumps(
            {
                "arch": guest.arch,
                "machine": guest.machine,
                "byte_order": guest.byte_order,
                "elf_class": guest.elf_class,
                "page_size": guest.page_size,
                "phys_base": guest.phys_base,
                "notes": [[note.name, note.type, note.desc.hex()] for note in guest.notes],
                "vmcoreinfo": guest.vmcoreinfo and guest.vmcoreinfo.text.hex(),
                "utsname": astuple(guest.utsname),
                "ram": [[block.paddr, block.size] for block in guest.memory],
                "stored": list(self.stored),
            }
        ).encode()
        self._head = MAGIC + LENGTH.pack(len(header)) + header
        self.start = len(self._head)
        self.size_limit = self.start + self.stored.size

    def headers(self) -> Iterator[Extent | Hole]:
        yield Extent(0, self._head)

    def encoder(self) -> SkeletonEncoder:
        return SkeletonEncoder(self.start)

    def size(self, end: int) -> int:
        return self.size_limit


class SkeletonImage(MemoryImage):
    """A skeleton file."""

    def __init__(self, backing: Backing) -> None:
        self._backing = backing
        (length,) = LENGTH.unpack(backing.read(len(MAGIC), LENGTH.size))
        header = backing.read(HEADER, length)
        try:
            facts = json.loads(header)
            self._guest = _guest(facts)
            self._stored = Ranges.of((int(start), int(end)) for start, end in facts["stored"])
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise FormatError(backing.path, f"its header is damaged: {error!r}", offset=HEADER) from None
        self._starts = [start for start, _ in self._stored]
        self._offsets = list(accumulate((end - start for start, end in self._stored), initial=HEADER + length))
        backing.check(self._offsets[0], self._stored.size)
        if self._stored.subtract(self._guest.memory.ranges()):
            raise FormatError(backing.path, "it holds memory where there is no RAM", offset=HEADER)

    def guest(self) -> Guest:
        return self._guest

    def excluded(self) -> Ranges:
        return self._guest.memory.ranges().subtract(self._stored)

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        buffer[:] = bytes(len(buffer))
        for start, end in self._stored.clip(paddr, paddr + len(buffer)):
            i = bisect_right(self._starts, start) - 1
            self._backing.read_into(self._offsets[i] + start - self._starts[i], buffer[start - paddr : end - paddr])

    def close(self) -> None:
        self._backing.close()


def _guest(facts: Any) -> Guest:
    """The guest that a header describes; raises whatever a damaged one leads to."""
    if facts["byte_order"] not in ("little", "big") or facts["elf_class"] not in (32, 64):
        raise ValueError("no such machine")
    page_size = int(facts["page_size"])
    if page_size < 512 or page_size & (page_size - 1):
        raise ValueError(f"no page has {page_size} bytes")
    return Guest(
        MemoryMap.of((int(paddr), int(size)) for paddr, size in facts["ram"]),
        arch=facts["arch"] and str(facts["arch"]),
        machine=facts["machine"] and int(facts["machine"]),
        byte_order=facts["byte_order"],
        elf_class=facts["elf_class"],
        page_size=page_size,
        phys_base=facts["phys_base"] and int(facts["phys_base"]),
        notes=tuple(Note(str(name), int(type_), bytes.fromhex(desc)) for name, type_, desc in facts["notes"]),
        vmcoreinfo=facts["vmcoreinfo"] and Vmcoreinfo(bytes.fromhex(facts["vmcoreinfo"])),
        utsname=Utsname(*map(str, facts["utsname"])),
    )


class SkeletonFormat(Format):
    """Guest facts as JSON, memory as it is."""

    name: ClassVar[str] = "skeleton"

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
