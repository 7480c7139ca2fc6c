"""Reads the two headers of a kdump file: byte order, width, which form the sub header has, and which pages it means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pydump.errors import FormatError
from pydump.interfaces.backing import Backing
from pydump.model.guest import ByteOrder
from pydump_format_kdump.layout import (
    DISKDUMP_HEADER_BLOCKS,
    DISKDUMP_SIGNATURE,
    FIELD_SINCE,
    MAX_BLOCK_SIZE,
    MAX_PADDR,
    MIN_BLOCK_SIZE,
    SIGNATURES,
    DiskDumpHeader,
    DiskDumpHeader32,
    DiskDumpHeader64,
    DumpDh,
    DumpHeader,
    KdumpSubHeader,
    KdumpSubHeader32,
    KdumpSubHeader32Aligned,
    KdumpSubHeader64,
)

_ORDERS: Final[tuple[ByteOrder, ...]] = ("little", "big")
#: In the wrong byte order a version is larger than any of these.
_MAX_VERSION: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Headers:
    """The headers of one file.

    Attributes:
        main: Its main header.
        sub: Its sub header, fields that its version does not have, or that the file does not hold, set to 0.
        byte_order: Of all its numbers.
        max_mapnr: One past the last pfn of the dump.
        start_pfn: The first pfn whose page the file holds.
        end_pfn: One past the last.
        whole: Does the file hold all of the sub header?
    """

    main: DiskDumpHeader
    sub: KdumpSubHeader
    byte_order: ByteOrder
    max_mapnr: int
    start_pfn: int
    end_pfn: int
    whole: bool

    @property
    def block_size(self) -> int:
        """Bytes of a block, and so of a page."""
        block_size: int = self.main.block_size
        return block_size

    @property
    def status(self) -> int:
        """``status`` in the numbers that KDUMP files use."""
        status: int = self.main.status
        if self.main.signature != DISKDUMP_SIGNATURE:
            return status
        compressed = DumpDh.COMPRESSED_ZLIB if status & DumpHeader.COMPRESSED else 0
        return compressed | (DumpDh.COMPRESSED_INCOMPLETE if status & DumpHeader.INCOMPLETED else 0)

    @property
    def bitmaps(self) -> int:
        """Offset of the first bitmap."""
        at: int = (DISKDUMP_HEADER_BLOCKS + self.main.sub_hdr_size) * self.block_size
        return at

    @property
    def descs(self) -> int:
        """Offset of the first page_desc."""
        at: int = self.bitmaps + self.main.bitmap_blocks * self.block_size
        return at


def read_headers(backing: Backing) -> Headers:
    """Find out a file's byte order and width and read its headers.

    Raises:
        FormatError: They make no sense.
    """
    head = backing.read(0, min(backing.size, DiskDumpHeader64.nbytes()))
    if not head.startswith(SIGNATURES):
        raise FormatError(backing.path, "it does not begin with a kdump signature", offset=0)
    # What a 64-bit header has where the 32-bit one has block_size and sub_hdr_size is tv_usec, half of which is 0; the
    # other way round there are max_mapnr and total_ram_blocks, which may well look like them.
    found = [
        (header, byte_order)
        for header_class in (DiskDumpHeader32, DiskDumpHeader64)
        for byte_order in _ORDERS
        if len(head) >= header_class.nbytes() and _plausible(header := header_class.unpack(head, byte_order))
    ]
    if found:  # where the bitmaps fit in none, the first is the one to complain about
        return _with_sub_header(backing, *min(found, key=lambda pair: not _holds_bitmap(pair[0])))
    raise FormatError(
        backing.path,
        "no byte order and width gives a header that makes sense",
        offset=8,
        hint="the file is truncated or damaged",
    )


def _plausible(header: DiskDumpHeader) -> bool:
    block_size = header.block_size
    return (
        0 <= header.header_version < _MAX_VERSION
        and MIN_BLOCK_SIZE <= block_size <= MAX_BLOCK_SIZE
        and block_size & (block_size - 1) == 0
        and 0 < header.sub_hdr_size < 1 << 20
        and header.bitmap_blocks > 0
        and 0 <= header.nr_cpus < 1 << 20
    )


def _holds_bitmap(header: DiskDumpHeader) -> bool:
    """Whether the bitmap's blocks have a bit for each page. Source: libkdumpfile's header_looks_sane()."""
    holds: bool = header.bitmap_blocks * header.block_size * 8 >= header.max_mapnr
    return holds


def _with_sub_header(backing: Backing, header: DiskDumpHeader, byte_order: ByteOrder) -> Headers:
    version, block_size = header.header_version, header.block_size
    size = KdumpSubHeader64.nbytes()  # the longest form
    there = min(size, backing.size - block_size)
    raw = (backing.read(block_size, there) if there > 0 else b"").ljust(size, b"\0")
    sub = _sub_header(header, raw, byte_order, backing.size)
    whole = not any(backing.missing(block_size, type(sub).nbytes()))
    max_mapnr = max(sub.max_mapnr_64, header.max_mapnr)  # the 64-bit field is there from version 6 on
    if max_mapnr * block_size > MAX_PADDR:
        raise FormatError(backing.path, f"max_mapnr {max_mapnr:#x} is past {MAX_PADDR >> 40} TiB", offset=0)
    if header.bitmap_blocks * block_size < -(-max_mapnr // 8):
        raise FormatError(
            backing.path,
            f"{header.bitmap_blocks} bitmap blocks cannot hold {max_mapnr} pages",
            offset=type(header).offset_of("bitmap_blocks"),
        )
    if not sub.split:
        start, end = 0, max_mapnr
    elif version >= 6:
        start, end = sub.start_pfn_64, sub.end_pfn_64
    else:
        start, end = sub.start_pfn, sub.end_pfn
    if whole and not start <= end <= max_mapnr:
        raise FormatError(backing.path, f"it claims to hold the pfns {start:#x} to {end:#x}", offset=block_size)
    return Headers(header, sub, byte_order, max_mapnr, start, end, whole)


def _sub_header(header: DiskDumpHeader, raw: bytes, byte_order: ByteOrder, file_size: int) -> KdumpSubHeader:
    """The sub header, of the three forms the one that fits, without the fields its version does not have."""
    version = header.header_version
    absent: dict[str, Any] = {name: 0 for name, since in FIELD_SINCE.items() if version < since}
    if isinstance(header, DiskDumpHeader64):
        return KdumpSubHeader64.unpack(raw, byte_order).replace(**absent)

    packed = KdumpSubHeader32.unpack(raw, byte_order).replace(**absent)
    aligned = KdumpSubHeader32Aligned.unpack(raw, byte_order).replace(**absent)
    # What they point at lies among the sub header's blocks, in the files of all known writers.
    blocks = (DISKDUMP_HEADER_BLOCKS + header.sub_hdr_size) * header.block_size
    for limit in (blocks, file_size):
        fits = [_fits(header, sub, limit) for sub in (packed, aligned)]
        if any(fits):
            break
    # Read in the wrong form, notes may well look like none at all; a form in which there are some is the right one.
    blind = not packed.size_note and not packed.size_vmcoreinfo and (aligned.size_note or aligned.size_vmcoreinfo)
    return aligned if fits[1] and (blind or not fits[0]) else packed


def _fits(header: DiskDumpHeader, sub: KdumpSubHeader, limit: int) -> bool:
    """Whether a form gives offsets and sizes that lie before ``limit``. An offset without a size may stand there."""
    blobs = ((sub.offset_vmcoreinfo, sub.size_vmcoreinfo), (sub.offset_note, sub.size_note))
    sane = all(offset + size <= limit and (offset > 0 or size == 0) for offset, size in blobs)
    max_mapnr: int = sub.max_mapnr_64
    return sane and (header.header_version < 6 or max_mapnr >= header.max_mapnr)
