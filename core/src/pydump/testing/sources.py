"""Guests that dumps are made of: small ones of every byte order and class, and large ones of several batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydump.builtin.raw import BytesImage
from pydump.interfaces.image import MemoryImage
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.note import Note
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump.testing import guests

PAGE = 4096
#: An e_machine that no architecture has: a format must not depend on which are installed.
MACHINE = 0x7D7D
TEXT = b"OSRELEASE=6.1.0\nPAGESIZE=4096\nSYMBOL(_stext)=ffffffff81000000\n"

#: The notes of the guests: one is longer than a page, as those of wide vectors are, and one is empty.
NOTES = (
    Note("TEST", 0x77, bytes(range(100))),
    Note("OTHER", 1, b""),
    Note("CORE", 0x33, guests.random_page(5, 336)),
    Note("LONG", 0x405, guests.random_page(6, 5001)),
)

#: Guests by name: byte order, class, and ``(paddr, pages)`` of their RAM.
GUESTS: dict[str, tuple[Any, int, tuple[tuple[int, int], ...]]] = {
    "64-bit, little-endian": ("little", 64, ((0, 40), (0x100000, 300), (1 << 32, 20))),
    "64-bit, big-endian": ("big", 64, ((0, 64), (1 << 33, 30))),
    "32-bit, little-endian": ("little", 32, ((0x10000, 50), (0x800000, 10))),
    "32-bit, big-endian": ("big", 32, ((0, 33),)),
}


def guest(name: str) -> BytesImage:
    """One of the guests, with notes, VMCOREINFO, and memory of every kind."""
    byte_order, elf_class, blocks = GUESTS[name]
    facts = Guest(
        MemoryMap.of([]),
        machine=MACHINE,
        byte_order=byte_order,
        elf_class=elf_class,
        notes=NOTES,
        vmcoreinfo=Vmcoreinfo(TEXT),
    )
    return BytesImage(facts, {at: bytes(guests.memory(n, seed=at % 97)) for at, n in blocks})


class Filtered(BytesImage):
    """A guest of which some memory was left out."""

    def __init__(self, whole: BytesImage, left_out: Ranges) -> None:
        super().__init__(whole._guest, dict(whole._contents))
        self._left_out = left_out

    def excluded(self) -> Ranges:
        return self._left_out

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        super().read_into(paddr, buffer)
        for start, end in self._left_out.clip(paddr, paddr + len(buffer)):
            buffer[start - paddr : end - paddr] = bytes(end - start)


class Holed(BytesImage):
    """A guest that knows, by the MiB, where its memory is zero."""

    def data_ranges(self, paddr: int, size: int) -> Iterator[tuple[int, int]]:
        for at in range(paddr, paddr + size, 1 << 20):
            end = min(at + (1 << 20), paddr + size)
            if contents(self, at, end - at) != bytes(end - at):
                yield at, end


def contents(source: MemoryImage, paddr: int, size: int) -> bytes:
    """Guest memory; what is not filled in is no zero."""
    buffer = bytearray(b"\xaa" * size)
    source.read_into(paddr, memoryview(buffer))
    return bytes(buffer)


def parting(left: bytes, right: bytes) -> int | None:
    """The first place at which two runs of bytes differ.

    Instead of ``==``: where ``CI`` is set pytest reports every difference, and works for ever on so many bytes.
    """
    if left == right:
        return None
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def zeros(source: MemoryImage) -> int:
    """Bytes of guest memory in pages of zeros."""
    pages = [
        contents(source, at, PAGE) for block in source.guest().memory for at in range(block.paddr, block.end, PAGE)
    ]
    return PAGE * pages.count(bytes(PAGE))


def large(kind: type[BytesImage] = BytesImage) -> BytesImage:
    """A guest whose memory takes several batches, most of it zero.

    It ends at 64 MiB: there are formats whose files are as large as the highest address.
    """
    small = guest("64-bit, little-endian")
    memory = bytearray(22 << 20)
    for at in range(0, len(memory), 3 << 20):
        memory[at : at + (64 << 10)] = guests.memory(16, seed=at)
    memory[9 << 20 : 12 << 20] = b"".join(guests.random_page(n, 1 << 20) for n in range(3))
    return kind(small.guest(), {0: bytes(memory), (64 << 20) - 7 * PAGE: bytes(guests.memory(7))})


def dense() -> BytesImage:
    """A guest of several batches that hold hardly any zeros, so that any format has much to write for each.

    The last 64 KiB of each mebibyte compress: a format may refuse memory of which nothing does.
    """
    end = 16 * PAGE
    memory = b"".join(guests.random_page(n, (1 << 20) - end) + guests.text_page(n, end) for n in range(22))
    return BytesImage(guest("64-bit, little-endian").guest(), {0: memory})
