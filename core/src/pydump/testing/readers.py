"""Readers of ELF, kdump-compressed and flattened files that share nothing with pydump's own.

They know just enough to say what a file holds, use nothing but ``struct`` and the codecs, and are slow. A file that
keeps every rule is read; of any other an exception of whatever kind is raised.

Source of the layouts: elf(5); makedumpfile's diskdump_mod.h and makedumpfile.h; crash's diskdump.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass
class Contents:
    """What a file holds.

    Attributes:
        byte_order: "little" or "big".
        elf_class: 32 or 64.
        pages: Guest-physical address to the bytes that are stored for it; runs may have any length.
        notes: ``(name, type, content)``.
    """

    byte_order: str
    elf_class: int
    pages: dict[int, bytes] = field(default_factory=dict)
    notes: list[tuple[str, int, bytes]] = field(default_factory=list)

    def read(self, paddr: int, size: int) -> bytes:
        """``size`` bytes of memory.

        Raises:
            KeyError: They are not in the file.
        """
        out = b""
        while len(out) < size:
            at = paddr + len(out)
            start = max((start for start in self.pages if start <= at), default=-1)
            run = self.pages[start]
            if at >= start + len(run):
                raise KeyError(at)
            out += run[at - start : at - start + size - len(out)]
        return out


def unflatten(data: bytes) -> bytes:
    """The file that a flattened stream describes; any other file as it is."""
    if not data.startswith(b"makedumpfile\0\0\0\0"):
        return data
    out = bytearray()
    at = 4096
    while True:
        offset, size = struct.unpack_from(">qq", data, at)
        if offset < 0:
            assert (offset, size) == (-1, -1)
            return bytes(out)
        out.extend(bytes(max(0, offset + size - len(out))))
        out[offset : offset + size] = data[at + 16 : at + 16 + size]
        at += 16 + size


def read_notes(data: bytes, byte_order: str) -> list[tuple[str, int, bytes]]:
    """The notes of a note segment."""
    return _notes(data, "<" if byte_order == "little" else ">")


def read_elf(data: bytes) -> Contents:
    """What an ELF vmcore holds."""
    assert data[:4] == b"\x7fELF"
    wide, mark = data[4] == 2, "<" if data[5] == 1 else ">"
    header = struct.unpack_from(mark + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"), data, 16)
    kind, phoff, shoff, phentsize, phnum = header[0], header[4], header[5], header[8], header[9]
    assert kind == 4
    if phnum == 0xFFFF:
        phnum = struct.unpack_from(mark + "I", data, shoff + (44 if wide else 28))[0]
    found = Contents("little" if mark == "<" else "big", 64 if wide else 32)
    for i in range(phnum):
        at = phoff + i * phentsize
        if wide:
            p_type, _, offset, _, paddr, filesz, _, _ = struct.unpack_from(mark + "IIQQQQQQ", data, at)
        else:
            p_type, offset, _, paddr, filesz, _, _, _ = struct.unpack_from(mark + "IIIIIIII", data, at)
        if p_type == 1:
            found.pages[paddr] = data[offset : offset + filesz]
        elif p_type == 4:
            found.notes += _notes(data[offset : offset + filesz], mark)
    return found


def read_kdump(data: bytes) -> Contents:
    """What a kdump-compressed file holds, pages of zeros and all; of a 32-bit one without the notes."""
    _, found = read_kdump_set([data])
    return found


def read_kdump_set(files: Sequence[bytes]) -> tuple[list[tuple[int, int]], Contents]:
    """What the parts of a split dump hold together, in their order, or a whole one.

    Returns:
        ``(start, end)`` in pfns of each part, and what they hold.
    """
    read = [_read_part(data) for data in files]
    heads = {data[:4096] for data in files}
    assert len(heads) == 1, "the parts have different headers"
    ranges, contents = zip(*read, strict=True)
    found = contents[0]
    for other in contents[1:]:
        assert not found.pages.keys() & other.pages.keys(), "two parts hold the same page"
        assert other.notes == found.notes
        found.pages |= other.pages
    return list(ranges), found


def _read_part(data: bytes) -> tuple[tuple[int, int], Contents]:
    assert data[:8] == b"KDUMP   "
    for wide, mark in ((True, "<"), (True, ">"), (False, "<"), (False, ">")):
        # status and block_size lie behind a struct timeval, whose fields are longs.
        fields = struct.unpack_from(mark + "6I", data, 424 if wide else 412)
        block_size = fields[1]
        if block_size in (1 << n for n in range(12, 21)) and fields[2] < 1 << 20:
            break
    _, block_size, sub_hdr_size, bitmap_blocks = fields[:4]
    found = Contents("little" if mark == "<" else "big", 64 if wide else 32)
    if wide:
        offset_note, size_note = struct.unpack_from(mark + "QQ", data, block_size + 48)
        found.notes = _notes(data[offset_note : offset_note + size_note], mark)
    bitmap = (1 + sub_hdr_size) * block_size
    half = bitmap_blocks * block_size // 2
    (is_part,) = struct.unpack_from(mark + "i", data, block_size + (12 if wide else 8))
    first, end = struct.unpack_from(mark + ("QQ" if wide else "II"), data, block_size + (16 if wide else 12))
    if not is_part:
        first, end = 0, 8 * half
    at = bitmap + 2 * half
    bits = (pfn for byte in range(half) if data[bitmap + half + byte] for pfn in range(8 * byte, 8 * byte + 8))
    for pfn in bits:
        if not data[bitmap + half + pfn // 8] >> pfn % 8 & 1 or not first <= pfn < end:
            continue
        offset, size, flags = struct.unpack_from(mark + "qII", data, at)
        at += 24
        page = _CODECS[flags](data[offset : offset + size], block_size)
        assert len(page) == block_size
        found.pages[pfn * block_size] = page
    return (first, end), found


def _zlib(data: bytes, size: int) -> bytes:
    import zlib

    return zlib.decompress(data)


def _zstd(data: bytes, size: int) -> bytes:
    import zstandard

    return zstandard.ZstdDecompressor().decompress(data, max_output_size=size)


def _snappy(data: bytes, size: int) -> bytes:
    import snappy

    return bytes(snappy.uncompress(data))


def _lzo(data: bytes, size: int) -> bytes:
    try:
        import lzo
    except ImportError:
        import lzallright

        return bytes(lzallright.LZOCompressor().decompress(data, output_size_hint=size))
    return bytes(lzo.decompress(data, False, size))


_CODECS: dict[int, Callable[[bytes, int], bytes]] = {
    0: lambda data, size: data,
    1: _zlib,
    2: _lzo,
    4: _snappy,
    0x20: _zstd,
}


def _notes(data: bytes, mark: str) -> list[tuple[str, int, bytes]]:
    found = []
    at = 0
    while at + 12 <= len(data):
        namesz, descsz, kind = struct.unpack_from(mark + "III", data, at)
        if not namesz:
            break
        name = data[at + 12 : at + 12 + namesz].split(b"\0")[0].decode()
        desc = at + 12 + -(-namesz // 4) * 4
        found.append((name, kind, data[desc : desc + descsz]))
        at = desc + -(-descsz // 4) * 4
    return found
