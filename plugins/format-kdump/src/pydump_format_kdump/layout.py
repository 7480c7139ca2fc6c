"""The structs and numbers of the kdump-compressed format.

Source: makedumpfile's diskdump_mod.h and IMPLEMENTATION, crash's diskdump.h, QEMU's include/sysemu/dump.h.

A file is a sequence of blocks of ``block_size`` bytes::

    0                    disk_dump_header
    1                    kdump_sub_header, then the notes; sub_hdr_size blocks in all
    1 + sub_hdr_size     1st bitmap (pages that exist), 2nd bitmap (pages in the dump); bitmap_blocks in all
    then, unaligned      one page_desc for each bit of the 2nd bitmap, ascending in pfn; then the pages
"""

from __future__ import annotations

from enum import IntFlag
from typing import Annotated, Final

from pydump.layout.struct import I32, I64, U32, U64, Bytes2, Bytes4, Bytes8, Layout

KDUMP_SIGNATURE: Final = b"KDUMP   "
DISKDUMP_SIGNATURE: Final = b"DISKDUMP"
SIGNATURES: Final = (KDUMP_SIGNATURE, DISKDUMP_SIGNATURE)
HEADER_VERSION: Final = 6
DISKDUMP_HEADER_BLOCKS: Final = 1
#: Blocks of other sizes are not believed. Source: libkdumpfile's MIN_PAGE_SIZE and MAX_PAGE_SIZE.
MIN_BLOCK_SIZE: Final = 1 << 12
MAX_BLOCK_SIZE: Final = 1 << 18
#: The dump level of a file in which nothing but zero pages is left out: those share one block. QEMU states it always.
DUMP_LEVEL: Final = 1
#: One past the highest address that any architecture has: 52 bits. The bitmaps cover all below, mostly with holes.
MAX_PADDR: Final = 1 << 52
#: Length of each of utsname's six fields.
UTS_LEN: Final = 65

_Uts = Annotated[bytes, f"{UTS_LEN}s"]


class DumpDh(IntFlag):
    """``flags`` of a page_desc: how the page is compressed; and ``status`` of the header: what the file uses."""

    COMPRESSED_ZLIB = 0x1
    COMPRESSED_LZO = 0x2
    COMPRESSED_SNAPPY = 0x4
    COMPRESSED_INCOMPLETE = 0x8
    EXCLUDED_VMEMMAP = 0x10
    COMPRESSED_ZSTD = 0x20


class DumpHeader(IntFlag):
    """``status`` of a file whose signature is DISKDUMP, in which all compressed pages are zlib's."""

    INCOMPLETED = 0x1
    COMPRESSED = 0x8


#: The format's number for each compressor it can name.
COMPRESSION_FLAGS: Final = {
    "zlib": DumpDh.COMPRESSED_ZLIB,
    "lzo": DumpDh.COMPRESSED_LZO,
    "snappy": DumpDh.COMPRESSED_SNAPPY,
    "zstd": DumpDh.COMPRESSED_ZSTD,
}


class DiskDumpHeader64(Layout):
    """struct disk_dump_header where long has 64 bits."""

    signature: Bytes8 = KDUMP_SIGNATURE
    header_version: I32 = HEADER_VERSION
    sysname: _Uts = b""
    nodename: _Uts = b""
    release: _Uts = b""
    version: _Uts = b""
    machine: _Uts = b""
    domainname: _Uts = b""
    pad: Annotated[bytes, "6s"] = b""
    tv_sec: I64 = 0
    tv_usec: I64 = 0
    status: U32 = 0
    block_size: I32 = 0
    sub_hdr_size: I32 = 0
    bitmap_blocks: U32 = 0
    max_mapnr: U32 = 0
    total_ram_blocks: U32 = 0
    device_blocks: U32 = 0
    written_blocks: U32 = 0
    current_cpu: U32 = 0
    nr_cpus: I32 = 0


class DiskDumpHeader32(Layout):
    """struct disk_dump_header where long has 32 bits."""

    signature: Bytes8 = KDUMP_SIGNATURE
    header_version: I32 = HEADER_VERSION
    sysname: _Uts = b""
    nodename: _Uts = b""
    release: _Uts = b""
    version: _Uts = b""
    machine: _Uts = b""
    domainname: _Uts = b""
    pad: Bytes2 = b""
    tv_sec: I32 = 0
    tv_usec: I32 = 0
    status: U32 = 0
    block_size: I32 = 0
    sub_hdr_size: I32 = 0
    bitmap_blocks: U32 = 0
    max_mapnr: U32 = 0
    total_ram_blocks: U32 = 0
    device_blocks: U32 = 0
    written_blocks: U32 = 0
    current_cpu: U32 = 0
    nr_cpus: I32 = 0


class KdumpSubHeader64(Layout):
    """struct kdump_sub_header where long has 64 bits. A header version says how far the fields go."""

    phys_base: I64 = 0
    dump_level: I32 = 0
    split: I32 = 0
    start_pfn: U64 = 0
    end_pfn: U64 = 0
    offset_vmcoreinfo: U64 = 0
    size_vmcoreinfo: U64 = 0
    offset_note: U64 = 0
    size_note: U64 = 0
    offset_eraseinfo: U64 = 0
    size_eraseinfo: U64 = 0
    start_pfn_64: U64 = 0
    end_pfn_64: U64 = 0
    max_mapnr_64: U64 = 0


class KdumpSubHeader32(Layout):
    """struct kdump_sub_header where long has 32 bits and 64-bit fields are aligned to 4: i386, and all of QEMU's.

    phys_base is an address: only x86_64, which has the other struct, has negative ones.
    """

    phys_base: U32 = 0
    dump_level: I32 = 0
    split: I32 = 0
    start_pfn: U32 = 0
    end_pfn: U32 = 0
    offset_vmcoreinfo: U64 = 0
    size_vmcoreinfo: U32 = 0
    offset_note: U64 = 0
    size_note: U32 = 0
    offset_eraseinfo: U64 = 0
    size_eraseinfo: U32 = 0
    start_pfn_64: U64 = 0
    end_pfn_64: U64 = 0
    max_mapnr_64: U64 = 0


class KdumpSubHeader32Aligned(Layout):
    """struct kdump_sub_header where long has 32 bits and 64-bit fields are aligned to 8: arm, 32-bit ppc and riscv."""

    phys_base: U32 = 0
    dump_level: I32 = 0
    split: I32 = 0
    start_pfn: U32 = 0
    end_pfn: U32 = 0
    pad0: Bytes4 = b""
    offset_vmcoreinfo: U64 = 0
    size_vmcoreinfo: U32 = 0
    pad1: Bytes4 = b""
    offset_note: U64 = 0
    size_note: U32 = 0
    pad2: Bytes4 = b""
    offset_eraseinfo: U64 = 0
    size_eraseinfo: U32 = 0
    pad3: Bytes4 = b""
    start_pfn_64: U64 = 0
    end_pfn_64: U64 = 0
    max_mapnr_64: U64 = 0


DiskDumpHeader = DiskDumpHeader32 | DiskDumpHeader64
KdumpSubHeader = KdumpSubHeader32 | KdumpSubHeader32Aligned | KdumpSubHeader64

#: The header version from which on a field of the sub header means something.
FIELD_SINCE: Final = {
    "dump_level": 1,
    "split": 2,
    "start_pfn": 2,
    "end_pfn": 2,
    "offset_vmcoreinfo": 3,
    "size_vmcoreinfo": 3,
    "offset_note": 4,
    "size_note": 4,
    "offset_eraseinfo": 5,
    "size_eraseinfo": 5,
    "start_pfn_64": 6,
    "end_pfn_64": 6,
    "max_mapnr_64": 6,
}


class PageDesc(Layout):
    """struct page_desc: where a page's bytes are, how many, and how they are compressed. Offset 0: the page is lost."""

    offset: I64 = 0
    size: U32 = 0
    flags: U32 = 0
    page_flags: U64 = 0
