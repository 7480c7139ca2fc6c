"""kdump files put together from the format's description, without any code of pydump's."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydump.testing import guests


@dataclass
class Hand:
    """A kdump file put together from the format's description, without any code of pydump's."""

    version: int = 6
    order: str = "<"
    bits: int = 64
    aligned: bool = True
    block: int = 4096
    pages: dict[int, bytes] = field(default_factory=dict)
    excluded: tuple[int, ...] = ()
    split: tuple[int, int] | None = None
    signature: bytes = b"KDUMP   "
    status: int = 1
    blocks: tuple[int, int] = (0, 0)
    phys_base: bytes = bytes(8)
    lost: tuple[int, ...] = ()
    note: bytes = b""
    erased: bytes = b""
    flag: int = 1
    compress: Callable[[bytes], bytes] = field(default=lambda page: zlib.compress(page, 1))
    machine: bytes = b"x86_64"
    vmcoreinfo_at: int = 0

    def regions(self) -> dict[str, tuple[int, int]]:
        """Where each part of the file lies, as ``(start, end)``."""
        block, size = self.block, len(self.build())
        half = (max([*self.pages, *self.excluded]) + 8 * block) // (8 * block) * block
        start, end = self.split or (0, 1 << 60)
        descs = 2 * block + 2 * half
        data = descs + 24 * sum(start <= pfn < end for pfn in self.pages)
        bounds = (0, block, 2 * block, descs, data, size)
        names = ("block 0", "sub header", "bitmaps", "descriptors", "page data")
        return dict(zip(names, zip(bounds, bounds[1:], strict=False), strict=True))

    def build(self) -> bytes:
        o, block = self.order, self.block
        top = max([*self.pages, *self.excluded]) + 1
        half = (top + 8 * block - 1) // (8 * block) * block
        uts = b"".join(s.ljust(65, b"\0") for s in (b"Linux", b"", b"6.1", b"#1", self.machine, b""))
        head = self.signature + struct.pack(o + "i", self.version) + uts
        times = b"\0\0" + bytes(8) if self.bits == 32 else bytes(6) + bytes(16)
        head += times + struct.pack(
            o + "IiiIIIIIIi", self.status, block, 1, 2 * half // block, top, *self.blocks, 0, 0, 2
        )
        a, b = self.split or (0, 0)
        note_at, note_size = (block + 200, len(self.note)) if self.note and self.version >= 4 else (0, 0)
        erased = (block + 2048, len(self.erased)) if self.erased else (0, 0)
        narrow = (min(a, 0xFFFFFFFF), min(b, 0xFFFFFFFF)) if self.version >= 2 else (0, 0)
        split = 1 if self.split else 0
        if self.bits == 64:
            sub = struct.pack(
                o + "8siiQQQQQQQQQQQ",
                self.phys_base,
                1,
                split,
                *narrow,
                self.vmcoreinfo_at,
                0,
                note_at,
                note_size,
                *erased,
                a,
                b,
                top,
            )
        elif self.aligned:
            sub = struct.pack(o + "4siiII4x", self.phys_base, 1, split, *narrow)
            sub += struct.pack(o + "QI4xQI4xQI4x", self.vmcoreinfo_at, 0, note_at, note_size, *erased) + struct.pack(
                o + "QQQ", a, b, top
            )
        else:
            sub = struct.pack(o + "4siiII", self.phys_base, 1, split, *narrow)
            sub += struct.pack(o + "QIQIQI", self.vmcoreinfo_at, 0, note_at, note_size, *erased) + struct.pack(
                o + "QQQ", a, b, top
            )
        if self.version < 6:
            sub = sub[: {64: 80, 32: 72 if self.aligned else 56}[self.bits]]
        first, second = bytearray(half), bytearray(half)
        for pfn in (*self.pages, *self.excluded):
            first[pfn // 8] |= 1 << pfn % 8
        for pfn in self.pages:
            second[pfn // 8] |= 1 << pfn % 8
        start, end = self.split or (0, top)
        mine = [pfn for pfn in sorted(self.pages) if start <= pfn < end]
        at = 2 * block + 2 * half + 24 * len(mine)
        descs, data = b"", b""
        for pfn in mine:
            packed, flag = self.compress(self.pages[pfn]), self.flag
            if len(packed) >= block:
                packed, flag = self.pages[pfn], 0
            offset = 0 if pfn in self.lost else at + len(data)
            descs += struct.pack(o + "qIIQ", offset, len(packed), flag, 0)
            data += packed
        rest = (sub.ljust(200, b"\0") + self.note).ljust(2048, b"\0") + self.erased
        body = head.ljust(block, b"\0") + rest.ljust(block, b"\0")
        return body + bytes(first) + bytes(second) + descs + data


PAGES = {0: guests.text_page(0), 1: guests.zero_page(0), 5: guests.random_page(5), 4000: guests.ramp_page(1)}


def write(path: Path, hand: Hand) -> str:
    path.write_bytes(hand.build())
    return str(path)
