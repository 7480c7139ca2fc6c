"""ELF vmcores made by hand, whole and damaged, of either class and byte order. No code of pydump's writes them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

#: Source: System V ABI, chapters 4 and 5. Formats without a byte order, by class.
EHDR = {32: "HHIIIIIHHHHHH", 64: "HHIQQQIHHHHHH"}
PHDR = {32: "IIIIIIII", 64: "IIQQQQQQ"}
#: PT_NOTE and PT_LOAD.
NOTE, LOAD = 4, 1
VMCOREINFO = b"OSRELEASE=6.1.0-test\nPAGESIZE=4096\nSYMBOL(_stext)=ffffffff81000000\nNUMBER(phys_base)=0\n"


def pages(n: int, seed: int = 1) -> bytes:
    """``n`` pages, each different from all others."""
    return b"".join(struct.pack("<QQ", seed, i) * 256 for i in range(n))


@dataclass
class Load:
    """A PT_LOAD: where its bytes are mapped, and what they are. ``memsz`` is that of ``data`` unless it is given."""

    paddr: int
    data: bytes = b""
    memsz: int | None = None
    vaddr: int = 0
    #: Another PT_LOAD's place in the file, by its number, instead of bytes of its own.
    same_as: int | None = None


@dataclass
class Core:
    """A core file that can be written in any class and byte order."""

    loads: Sequence[Load]
    bits: int = 64
    order: str = "<"
    machine: int = 62
    #: What each PT_NOTE holds.
    notes: Sequence[bytes] = ()
    align: int = 4
    flags: int = 0
    patches: dict[int, bytes] = field(default_factory=dict)

    def note(self, name: bytes, type_: int, desc: bytes) -> bytes:
        """One note, padded to ``align``."""
        head = struct.pack(self.order + "III", len(name) + 1, len(desc), type_) + name + b"\0"
        return self._pad(self._pad(head) + desc)

    def _pad(self, data: bytes) -> bytes:
        return data + bytes(-len(data) % self.align)

    @property
    def ehsize(self) -> int:
        """Bytes of the ELF header."""
        return 16 + struct.calcsize("<" + EHDR[self.bits])

    @property
    def phsize(self) -> int:
        """Bytes of a program header."""
        return struct.calcsize("<" + PHDR[self.bits])

    @property
    def notes_at(self) -> int:
        """Where the first PT_NOTE's bytes are."""
        at = self.ehsize + self.phsize * (len(self.notes) + len(self.loads))
        return at + -at % 8

    @property
    def data_at(self) -> int:
        """Where the first PT_LOAD's bytes are."""
        return self.notes_at + sum(map(len, self.notes))

    def _phdr(self, type_: int, offset: int, vaddr: int, paddr: int, filesz: int, memsz: int, align: int) -> bytes:
        if self.bits == 64:
            return struct.pack(self.order + PHDR[64], type_, 7, offset, vaddr, paddr, filesz, memsz, align)
        return struct.pack(self.order + PHDR[32], type_, offset, vaddr, paddr, filesz, memsz, 7, align)

    def build(self) -> bytes:
        """The file."""
        n = len(self.notes) + len(self.loads)
        ident = b"\x7fELF" + bytes([self.bits // 32, 1 if self.order == "<" else 2, 1]) + bytes(9)
        table, at, places = b"", self.notes_at, []
        for notes in self.notes:
            table += self._phdr(NOTE, at, 0, 0, len(notes), len(notes), self.align)
            at += len(notes)
        for load in self.loads:
            offset = at if load.same_as is None else places[load.same_as]
            places.append(offset)
            memsz = len(load.data) if load.memsz is None else load.memsz
            table += self._phdr(LOAD, offset, load.vaddr, load.paddr, len(load.data), memsz, 0)
            at += 0 if load.same_as is not None else len(load.data)
        head = ident + struct.pack(
            self.order + EHDR[self.bits],
            4, self.machine, 1, 0, self.ehsize, 0, self.flags, self.ehsize, self.phsize, n, 0, 0, 0,
        )  # fmt: skip
        own = (load.data for load in self.loads if load.same_as is None)
        whole = bytearray((head + table).ljust(self.notes_at, b"\0") + b"".join([*self.notes, *own]))
        for offset, data in self.patches.items():
            whole[offset : offset + len(data)] = data
        return bytes(whole)


def small(bits: int = 64, order: str = "<", align: int = 4) -> Core:
    """Two RAM blocks of 16 pages, a CPU and VMCOREINFO."""
    machine = {(64, "<"): 62, (64, ">"): 22, (32, "<"): 40, (32, ">"): 8}[bits, order]
    core = Core([Load(0, pages(16)), Load(1 << 24, pages(16, 2))], bits, order, machine, align=align)
    prstatus = {62: 336, 22: 336, 40: 148, 8: 256}[machine]
    core.notes = [core.note(b"CORE", 1, bytes(prstatus)) + core.note(b"VMCOREINFO", 0, VMCOREINFO)]
    return core


#: Classes and byte orders.
KINDS = [(64, "<"), (64, ">"), (32, "<"), (32, ">")]
