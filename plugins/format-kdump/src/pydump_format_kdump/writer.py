"""Writes kdump-compressed files, version 6."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pydump.errors import UnsupportedError
from pydump.interfaces import bitmap
from pydump.interfaces.compressor import Compressor
from pydump.interfaces.sink import Extent, Hole
from pydump.interfaces.writer import Encoder, Writer
from pydump.layout.notes import desc_offset, pack_note
from pydump.model.guest import ByteOrder, Guest
from pydump.model.memory import Ranges
from pydump.model.note import ERASEINFO_NAME, VMCOREINFO_NAME, Note
from pydump.model.plan import Plan
from pydump_format_kdump.encoder import KdumpEncoder
from pydump_format_kdump.index import LEAST_BITMAP, MAX_RAM, Index
from pydump_format_kdump.layout import (
    COMPRESSION_FLAGS,
    DISKDUMP_HEADER_BLOCKS,
    DUMP_LEVEL,
    MAX_PADDR,
    UTS_LEN,
    DiskDumpHeader32,
    DiskDumpHeader64,
    DumpDh,
    KdumpSubHeader,
    KdumpSubHeader32,
    KdumpSubHeader32Aligned,
    KdumpSubHeader64,
    PageDesc,
)
from pydump_format_kdump.pfns import dumped_pages, first_pfn, max_mapnr, numbers, part_pfns, pfns

_U32_MAX = (1 << 32) - 1
_HEADERS = {32: DiskDumpHeader32, 64: DiskDumpHeader64}


class KdumpWriter(Writer):
    """One dump, or a part of one. All zero pages share one block, which is the first of the page data.

    Each part has the headers and bitmaps of the whole dump and its own pages' descriptors. Page data begins where it
    would begin in the whole dump: makedumpfile --reassemble knows pages of zeros by their offset.
    """

    marks_lost = True

    def __init__(self, plan: Plan, compressor: Compressor | None) -> None:
        guest = plan.guest
        assert guest.byte_order and guest.elf_class and guest.page_size  # the planner gives complete facts
        self._byte_order: ByteOrder = guest.byte_order
        self._compressor = compressor
        self.takes = plan.compression if plan.take_stored else None
        self._flag = int(COMPRESSION_FLAGS[compressor.name]) if compressor else 0
        self.unit = block_size = guest.page_size
        if not 4096 <= block_size <= 1 << 20 or block_size & (block_size - 1):
            raise UnsupportedError(
                f"kdump cannot have a block size of {block_size}", hint="it is the guest's page size"
            )
        if guest.sections:
            names = ", ".join(section.name for section in guest.sections)
            raise UnsupportedError(f"kdump has no place for the sections {names}", hint="write --format elf")

        memory = guest.memory
        if memory.end > MAX_PADDR:
            raise UnsupportedError(
                f"RAM ends at {memory.end:#x}, past {MAX_PADDR >> 40} TiB, and a kdump has a bit for each page below",
                hint="leave it out with --begin and --length, or write --format elf",
            )
        first = first_pfn(plan)
        self._present = pfns(plan, memory.ranges())
        self._dumped = dumped_pages(plan)
        lost = pfns(plan, plan.unreadable)
        own = self._dumped if plan.part is None else self._dumped.clip(*part_pfns(plan))
        self._lost = numbers(lost.intersect(own), own)
        self.stored = Ranges((own.array + np.uint64(first)) * np.uint64(block_size))
        n_bits = max_mapnr(plan)
        self._bitmap_bits = _blocks(-(-n_bits // 8), block_size) * block_size * 8
        self.n_pages = own.size

        status = self._flag | (DumpDh.COMPRESSED_INCOMPLETE if lost else 0)
        if guest.excluded_vmemmap:
            status |= DumpDh.EXCLUDED_VMEMMAP
        self._status = status
        self._status_at = _HEADERS[guest.elf_class].offset_of("status")
        indexed = self._bitmap_bits // 8 > LEAST_BITMAP and len(self._present) <= MAX_RAM and plan.compat is None
        index = Index.of(self._present, self._dumped, n_bits).pack(self._byte_order) if indexed else b""
        headers = _headers(plan, n_bits, self._bitmap_bits // 8 // block_size * 2, status, index)
        self._headers = headers
        bitmaps = len(headers)
        self._descs = bitmaps + 2 * self._bitmap_bits // 8
        self.tables_size = self.n_pages * PageDesc.nbytes()
        self._zero = self._descs + self._dumped.size * PageDesc.nbytes()
        self.start = self._zero + (block_size if self.n_pages else 0)
        self.size_limit = self.start + self.n_pages * block_size

    def headers(self) -> Iterator[Extent | Hole]:
        yield Extent(0, self._headers)
        at = len(self._headers)
        for pages in (self._present, self._dumped):
            for first, piece in bitmap.pack(pages, self._bitmap_bits):
                yield Hole(at + first, piece) if isinstance(piece, int) else Extent(at + first, piece.data.cast("B"))
            at += self._bitmap_bits // 8
        if self.n_pages:
            yield Extent(self._zero, bytes(self.unit))

    def encoder(self) -> Encoder[Any]:
        return KdumpEncoder(*self._encoding())

    def _encoding(self) -> tuple[ByteOrder, int, Compressor | None, int, Ranges, int, int]:
        """The fields of the encoder."""
        return self._byte_order, self.unit, self._compressor, self._flag, self._lost, self._descs, self._zero

    def finish(self, end: int) -> Iterator[Extent | Hole]:
        if self.lost_size:  # the header was written before the first page was read
            status = (self._status | DumpDh.COMPRESSED_INCOMPLETE).to_bytes(4, self._byte_order)
            yield Extent(self._status_at, status)


def _headers(plan: Plan, n_bits: int, bitmap_blocks: int, status: int, index: bytes) -> bytes:
    """Everything before the bitmaps: header; sub header, notes and index; each filled up to whole blocks."""
    guest = plan.guest
    block_size = guest.page_size or 0
    byte_order = guest.byte_order or "little"
    sub_class = _sub_header(plan)
    notes, texts = _notes(guest, byte_order)
    note_at = DISKDUMP_HEADER_BLOCKS * block_size + sub_class.nbytes()
    sub_hdr_size = _blocks(sub_class.nbytes() + len(notes) + len(index), block_size)
    sub = sub_class(
        phys_base=_phys_base(guest),
        dump_level=_dump_level(plan),
        offset_note=note_at if notes else 0,
        size_note=len(notes),
        max_mapnr_64=n_bits,
    )
    if plan.part is not None:
        start, end = part_pfns(plan)
        sub = sub.replace(split=1, start_pfn=start, end_pfn=end, start_pfn_64=start, end_pfn_64=end)
    if sub_class is KdumpSubHeader32Aligned:
        # libkdumpfile takes the header for a packed one where this is 0, and then finds no notes.
        sub = sub.replace(offset_vmcoreinfo=note_at)
    if VMCOREINFO_NAME in texts:
        at, size = texts[VMCOREINFO_NAME]
        sub = sub.replace(offset_vmcoreinfo=note_at + at, size_vmcoreinfo=size)
    if ERASEINFO_NAME in texts:
        at, size = texts[ERASEINFO_NAME]
        sub = sub.replace(offset_eraseinfo=note_at + at, size_eraseinfo=size)
    uts = guest.utsname
    header = _HEADERS[guest.elf_class or 64](
        sysname=_uts(uts.sysname),
        nodename=_uts(uts.nodename),
        release=_uts(uts.release),
        version=_uts(uts.version),
        machine=_uts(uts.machine),
        domainname=_uts(uts.domainname),
        status=status,
        block_size=block_size,
        sub_hdr_size=sub_hdr_size,
        bitmap_blocks=bitmap_blocks,
        max_mapnr=min(n_bits, _U32_MAX),
        nr_cpus=guest.n_cpus or 0,
    )
    texts_size = sub_hdr_size * block_size - len(index)
    return (
        header.pack(byte_order).ljust(block_size, b"\0")
        + (sub.pack(byte_order) + notes).ljust(texts_size, b"\0")
        + index
    )


def _dump_level(plan: Plan) -> int:
    """What was left out: what the source says, and at least something where pages are left out."""
    level = plan.guest.dump_level
    return level | DUMP_LEVEL if plan.compat or (plan.excluded and not level) else level


def _sub_header(plan: Plan) -> type[KdumpSubHeader]:
    """Which of the three forms: QEMU uses the packed one for every 32-bit target."""
    if plan.guest.elf_class == 64:
        return KdumpSubHeader64
    return KdumpSubHeader32 if plan.u64_align == 4 or plan.compat == "qemu" else KdumpSubHeader32Aligned


def _notes(guest: Guest, byte_order: ByteOrder) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """The packed notes, VMCOREINFO last, and where in them the text of each name begins and how long it is.

    Readers differ in where they look for VMCOREINFO and ERASEINFO: in the notes, or through the sub header's fields.
    This serves both. The header of a Windows crash dump, which has VMCOREINFO's name, is not a text.
    """
    notes = guest.notes
    if guest.vmcoreinfo is not None:
        notes += (Note(VMCOREINFO_NAME, 0, guest.vmcoreinfo.text),)
    packed, texts = bytearray(), {}
    for note in notes:
        if note.type == 0 and not (guest.windows and note.is_vmcoreinfo):
            texts[note.name] = (len(packed) + desc_offset(note), len(note.desc))
        packed += pack_note(note, byte_order)
    return bytes(packed), texts


def _blocks(size: int, block_size: int) -> int:
    return -(-size // block_size)


def _uts(value: str) -> bytes:
    return value.encode("utf-8", "replace")[: UTS_LEN - 1]


def _phys_base(guest: Guest) -> int:
    """phys_base as its field holds it: signed where it has 64 bits."""
    value = guest.phys_base or 0
    if guest.elf_class == 32:
        return value % (1 << 32)
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)
