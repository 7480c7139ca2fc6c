"""Reads kdump-compressed files: versions 1 to 6, both widths, both byte orders, whole or split over several files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from pydump.errors import CompressionError, FormatError, PlanError, ReadError, UnknownPluginError
from pydump.interfaces.backing import Backing
from pydump.interfaces.compressor import Compressor
from pydump.interfaces.format import Decompressors
from pydump.interfaces.source import Source, StoredPages
from pydump.layout.notes import MAX_NOTES_SIZE, unpack_notes
from pydump.layout.zero import zero_pages
from pydump.model.guest import ByteOrder, Guest, Utsname
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.note import ERASEINFO_NAME, Note
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump_format_kdump import SIGNATURES
from pydump_format_kdump.bitmap import Bitmap, Rank
from pydump_format_kdump.layout import (
    COMPRESSION_FLAGS,
    DISKDUMP_HEADER_BLOCKS,
    DISKDUMP_SIGNATURE,
    FIELD_SINCE,
    HEADER_VERSION,
    MAX_PADDR,
    DiskDumpHeader,
    DiskDumpHeader32,
    DiskDumpHeader64,
    DumpDh,
    DumpHeader,
    KdumpSubHeader,
    KdumpSubHeader32,
    KdumpSubHeader32Aligned,
    KdumpSubHeader64,
    PageDesc,
)

#: A map of more blocks than this is not believed: real RAM lies in a few dozen.
MAX_RAM_BLOCKS: Final = 1 << 20
#: Descriptors that are looked at in one go.
DESCS_AT_ONCE: Final = 1 << 14
#: Descriptors that are read although nobody wants them, where that saves a read.
MAX_DESC_GAP: Final = 64
#: Guest memory that is read in one go is at most this long, and so, or little more, is the page data it takes.
READ_AT_ONCE: Final = 8 << 20
#: Bytes of the file that are read although nobody wants them, where that saves a read.
MAX_GAP: Final = 4096

_ORDERS: Final[tuple[ByteOrder, ...]] = ("little", "big")
_CODEC_NAMES: Final = {int(flag): name for name, flag in COMPRESSION_FLAGS.items()}


@dataclass(frozen=True, slots=True)
class _Part:
    """One file of a dump.

    Attributes:
        backing: Its bytes.
        header: Its main header.
        sub: Its sub header, fields that its version does not have set to 0.
        byte_order: Of all its numbers.
        max_mapnr: One past the last pfn of the dump.
        start_pfn: The first pfn whose page it holds.
        end_pfn: One past the last.
        descs: Offset of its first page_desc.
        first: How many pages of the dump come before its own.
        n_pages: How many pages it holds.
    """

    backing: Backing
    header: DiskDumpHeader
    sub: KdumpSubHeader
    byte_order: ByteOrder
    max_mapnr: int
    start_pfn: int
    end_pfn: int
    descs: int
    first: int = 0
    n_pages: int = 0

    @property
    def descs_end(self) -> int:
        """Where its page_descs end."""
        return self.descs + self.n_pages * PageDesc.nbytes()


class KdumpSource(Source):
    """A kdump-compressed dump.

    Raises:
        FormatError: A header or a bitmap is damaged.
        PlanError: Parts of a split dump are missing, or do not belong together.
    """

    name: ClassVar[str] = "kdump"

    def __init__(self, files: Sequence[Backing], compressor: Decompressors) -> None:
        self._compressor = compressor
        self._codecs: dict[int, Compressor] = {}
        parts = sorted((_open_part(backing) for backing in files), key=lambda part: part.start_pfn)
        first = parts[0]
        self.path = first.backing.path
        self._header, self._sub, self._byte_order = first.header, first.sub, first.byte_order
        self._block_size = first.header.block_size
        self._max_mapnr = first.max_mapnr
        _check_set(parts, self._max_mapnr)
        dumped = self._read_bitmaps(first)
        self._parts = [self._counted(part) for part in parts]
        self._notes, self._vmcoreinfo = self._read_notes(first)
        self._lost = self._find_lost(dumped)

    @classmethod
    def open(cls, argument: str, options: Any = None) -> Self:
        raise PlanError("a kdump file is opened by its path")

    # -- the file's structure

    def _read_bitmaps(self, part: _Part) -> Ranges:
        """Settle what is RAM and what was left out of the dump; returns the pfns that are in it."""
        header, backing = part.header, part.backing
        at = (DISKDUMP_HEADER_BLOCKS + header.sub_hdr_size) * self._block_size
        size = header.bitmap_blocks * self._block_size
        need = -(-self._max_mapnr // 8)
        one = -(-need // self._block_size) * self._block_size
        backing.check(at, size)
        if self._max_mapnr * self._block_size > MAX_PADDR:
            raise FormatError(backing.path, f"max_mapnr {self._max_mapnr:#x} is past {MAX_PADDR >> 40} TiB", offset=0)
        # makedumpfile writes both bitmaps; an older or cut-down writer only the one that matters.
        both = size >= 2 * one
        if size < (2 * need if both else need):
            raise FormatError(
                backing.path,
                f"{header.bitmap_blocks} bitmap blocks cannot hold {self._max_mapnr} pages",
                offset=type(header).offset_of("bitmap_blocks"),
            )
        half = size // 2 if both else size
        present = Bitmap.read(backing, at, need)
        dumped = Bitmap.read(backing, at + half, need) if both else present
        self._rank = Rank(dumped)
        present_pages = _ranges(present, self._max_mapnr)
        dumped_pages = present_pages if present.same(dumped) else _ranges(dumped, self._max_mapnr)
        scale = np.uint64(self._block_size)
        ram = Ranges(present_pages.union(dumped_pages).array * scale)
        if len(ram) > MAX_RAM_BLOCKS:
            raise FormatError(backing.path, f"the 1st bitmap has {len(ram)} runs of pages", offset=at)
        self._memory = MemoryMap.of((start, end - start) for start, end in ram)
        self._excluded = Ranges(present_pages.subtract(dumped_pages).array * scale)
        return dumped_pages

    def _counted(self, part: _Part) -> _Part:
        first = self._rank(part.start_pfn)
        return replace(part, first=first, n_pages=self._rank(part.end_pfn) - first)

    def _read_notes(self, part: _Part) -> tuple[tuple[Note, ...], Vmcoreinfo | None]:
        backing, sub = part.backing, part.sub
        notes: tuple[Note, ...] = ()
        if sub.offset_note and sub.size_note:
            if sub.size_note > MAX_NOTES_SIZE:
                raise FormatError(backing.path, f"{sub.size_note:#x} bytes of notes", offset=self._block_size)
            try:
                notes = unpack_notes(backing.read(sub.offset_note, sub.size_note), self._byte_order)
            except ValueError as error:
                raise FormatError(backing.path, f"notes: {error}", offset=sub.offset_note) from None
        text = next((note.desc for note in notes if note.is_vmcoreinfo), None)
        if text is None and sub.offset_vmcoreinfo and sub.size_vmcoreinfo:
            if sub.size_vmcoreinfo > MAX_NOTES_SIZE:
                raise FormatError(
                    backing.path, f"{sub.size_vmcoreinfo:#x} bytes of vmcoreinfo", offset=self._block_size
                )
            text = backing.read(sub.offset_vmcoreinfo, sub.size_vmcoreinfo)
        others = [note for note in notes if not note.is_vmcoreinfo]
        erased = self._erase_info()
        if erased and not any(note.name == ERASEINFO_NAME for note in others):
            others.append(Note(ERASEINFO_NAME, 0, erased))
        return tuple(others), None if text is None else Vmcoreinfo(text)

    def _erase_info(self) -> bytes:
        """What was erased, of all parts: makedumpfile gives each the lines of what it erased in there."""
        texts: list[bytes] = []
        for part in self._parts:
            offset, size = part.sub.offset_eraseinfo, part.sub.size_eraseinfo
            if size > MAX_NOTES_SIZE:
                raise FormatError(part.backing.path, f"{size:#x} bytes of eraseinfo", offset=self._block_size)
            if offset and size and (text := part.backing.read(offset, size)) not in texts:
                texts.append(text)
        return b"".join(texts)

    def _find_lost(self, dumped: Ranges) -> Ranges:
        """Pages whose descriptor has offset 0; looked for only where the header says the dump is incomplete."""
        if not _status(self._header) & DumpDh.COMPRESSED_INCOMPLETE:
            return Ranges.empty()
        lost = np.concatenate([self._lost_in(part) for part in self._parts])
        starts, ends = dumped.array.astype(np.int64).T
        before = np.cumsum(ends - starts) - (ends - starts)
        which = np.searchsorted(before, lost, "right") - 1
        pfns = starts[which] + lost - before[which]
        return Ranges.of_array(np.stack([pfns, pfns + 1], axis=1) * self._block_size)

    def _lost_in(self, part: _Part) -> NDArray[np.int64]:
        """Which pages of the dump, as they are counted in its 2nd bitmap, a part should hold and has lost."""
        dtype = PageDesc.dtype(self._byte_order)
        lost = [np.empty(0, np.int64)]
        for at in range(0, part.n_pages, DESCS_AT_ONCE):
            size = min(DESCS_AT_ONCE, part.n_pages - at) * dtype.itemsize
            descs = np.frombuffer(part.backing.read(part.descs + at * dtype.itemsize, size), dtype)
            lost.append(np.flatnonzero(descs["offset"] == 0) + part.first + at)
        return np.concatenate(lost)

    # -- facts

    def guest(self) -> Guest:
        uts = Utsname(*(_text(getattr(self._header, name)) for name in _UTS_FIELDS))
        return Guest(
            self._memory,
            byte_order=self._byte_order,
            elf_class=64 if isinstance(self._header, DiskDumpHeader64) else 32,
            page_size=self._block_size,
            phys_base=self._sub.phys_base,
            notes=self._notes,
            vmcoreinfo=self._vmcoreinfo,
            utsname=uts,
            n_cpus=self._header.nr_cpus if 0 < self._header.nr_cpus < 1 << 16 else None,
            dump_level=self._sub.dump_level,
        )

    def excluded(self) -> Ranges:
        return self._excluded

    def unreadable(self) -> Ranges:
        return self._lost

    def describe(self) -> tuple[tuple[str, str], ...]:
        header = self._header
        status = _status(header)
        codecs = [self._codec_label(name) for name, flag in COMPRESSION_FLAGS.items() if status & flag]
        rows = [
            (
                "format",
                f"kdump-compressed version {header.header_version}, {self._block_size}-byte blocks"
                + (", flattened" if self._parts[0].backing.flattened else ""),
            ),
            ("compression", ", ".join(codecs) or "none"),
        ]
        if len(self._parts) > 1:
            rows.append(("parts", ", ".join(part.backing.path for part in self._parts)))
        if status & DumpDh.COMPRESSED_INCOMPLETE:
            rows.append(("incomplete", f"the header says so; {self._lost.size // self._block_size} pages are lost"))
        return tuple(rows)

    def _codec_label(self, name: str) -> str:
        try:
            return f"{name}, read with {self._compressor(name).producer}"
        except UnknownPluginError as error:
            return f"{name}, and its plugin is not installed: {error.hint}"

    # -- memory

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        block_size = self._block_size
        end = paddr + len(buffer)
        first, last = paddr // block_size, -(-end // block_size)
        pfns = np.arange(first, last)
        if first * block_size == paddr and last * block_size == end:
            self._read_pages(pfns, buffer)
            return
        # The range begins or ends within a block (a 64 KiB block read by a tool that thinks in 4 KiB pages).
        whole = bytearray((last - first) * block_size)
        self._read_pages(pfns, memoryview(whole))
        skip = paddr - first * block_size
        buffer[:] = memoryview(whole)[skip : skip + len(buffer)]

    def read_runs(self, runs: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        """The pages of a filtered dump lie in runs by the thousand, and one costs little more than all together."""
        bounds = np.array(runs, np.int64).reshape(-1, 2)
        if len(runs) < 2 or (bounds % self._block_size).any():
            super().read_runs(runs, buffer)
        else:
            self._read_pages(_pfns(bounds // self._block_size), buffer)

    def _read_pages(self, wanted: NDArray[np.int64], buffer: memoryview) -> None:
        """Fill ``buffer`` with pages, in ascending order of their pfns; those that are not in the dump are zero."""
        if not len(wanted):
            return
        if wanted[-1] >= self._max_mapnr:
            raise ReadError(int(wanted[0]) * self._block_size, len(buffer), "it is past the last page")
        rows = np.flatnonzero(self._rank.is_set(wanted))
        pfns = wanted[rows]
        if len(pfns) < len(wanted):
            np.frombuffer(buffer, np.uint8)[:] = 0
        step = max(1, READ_AT_ONCE // self._block_size)
        for part, first, last in self._by_part(pfns):
            for at in range(first, last, step):
                some = slice(at, min(last, at + step))
                self._read_part(part, pfns[some], rows[some], buffer)

    def _by_part(self, pfns: NDArray[np.int64]) -> Iterator[tuple[_Part, int, int]]:
        """The parts that hold ``pfns``, each with ``[first, last)`` of those it holds."""
        for part in self._parts:
            first, last = np.searchsorted(pfns, (part.start_pfn, part.end_pfn)).tolist()
            if last > first:
                yield part, first, last

    def _descs_of(self, part: _Part, pfns: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Offsets, sizes and flags of pages of one part, which are in the dump and ascend."""
        dtype = PageDesc.dtype(self._byte_order)
        numbers = self._rank.of_set(pfns) - part.first
        descs = np.concatenate(
            [
                np.frombuffer(
                    part.backing.read(
                        part.descs + int(group[0]) * dtype.itemsize, int(group[-1] - group[0] + 1) * dtype.itemsize
                    ),
                    dtype,
                )[group - group[0]]
                for group in np.split(numbers, np.flatnonzero(np.diff(numbers) > MAX_DESC_GAP) + 1)
            ]
        )
        offsets, sizes, flags = (descs[name].astype(np.int64) for name in ("offset", "size", "flags"))
        bad = (sizes <= 0) | (sizes > self._block_size) | (offsets > part.backing.size - sizes)
        bad |= offsets < part.descs_end
        for i in np.flatnonzero(bad).tolist():
            if offsets[i] or not self._lost:
                at = part.descs + int(numbers[i]) * dtype.itemsize
                raise self._bad_page(part, int(pfns[i]), at, int(offsets[i]), int(sizes[i]))
        return offsets, sizes, flags

    def _read_part(self, part: _Part, pfns: NDArray[np.int64], rows: NDArray[np.int64], buffer: memoryview) -> None:
        """Read pages of one part, each to its row of ``buffer``."""
        offsets, sizes, flags = self._descs_of(part, pfns)
        places = rows * self._block_size
        # Pages that share their data (zero pages do, by the thousand) are read once, then copied. Only descriptors
        # that say the same of it share it: each other one is read as it says, and so found out where it lies.
        own, owner = _distinct(offsets, sizes, flags)
        for flag in np.unique(flags[own]).tolist():
            some = own[(flags[own] == flag) & (offsets[own] > 0)]
            if flag == 0 and len(some):
                self._read_raw(part, pfns[some], offsets[some], sizes[some], places[some], buffer)
            elif len(some):
                self._read_compressed(part, flag, pfns[some], offsets[some], sizes[some], places[some], buffer)
        pages = np.frombuffer(buffer, np.uint8).reshape(-1, self._block_size)
        of = own[owner]
        lost = np.flatnonzero(offsets == 0)
        pages[rows[lost]] = 0
        shared = np.flatnonzero(of != np.arange(len(of)))
        for at in range(0, len(shared), 256):  # picking rows copies them
            some = shared[at : at + 256]
            pages[rows[some]] = pages[rows[of[some]]]

    def _read_raw(
        self,
        part: _Part,
        pfns: NDArray[np.int64],
        offsets: NDArray[np.int64],
        sizes: NDArray[np.int64],
        places: NDArray[np.int64],
        buffer: memoryview,
    ) -> None:
        """Read pages that are stored as they are, in ascending order of offset, into their places in ``buffer``."""
        block_size = self._block_size
        for i in np.flatnonzero(sizes != block_size).tolist():
            paddr = int(pfns[i]) * block_size
            raise ReadError(paddr, block_size, f"its page is stored raw, but with {sizes[i]} bytes")
        breaks = np.flatnonzero((np.diff(offsets) != block_size) | (np.diff(places) != block_size)) + 1
        starts = np.concatenate([[0], breaks])
        lengths = np.diff(np.append(starts, len(offsets))) * block_size
        for offset, place, length in zip(
            offsets[starts].tolist(), places[starts].tolist(), lengths.tolist(), strict=True
        ):
            part.backing.read_into(offset, buffer[place : place + length])

    def _read_compressed(
        self,
        part: _Part,
        flag: int,
        pfns: NDArray[np.int64],
        offsets: NDArray[np.int64],
        sizes: NDArray[np.int64],
        places: NDArray[np.int64],
        buffer: memoryview,
    ) -> None:
        """Decompress pages, in ascending order of offset, into their places in ``buffer``."""
        block_size = self._block_size
        decompress = self._codec(flag, int(pfns[0])).decompress
        ends = offsets + sizes
        breaks = np.flatnonzero(offsets[1:] > np.maximum.accumulate(ends)[:-1] + MAX_GAP) + 1
        for group in np.split(np.arange(len(offsets)), breaks):
            start = int(offsets[group[0]])
            size = int(ends[group].max()) - start
            data = memoryview(bytearray(size))
            part.backing.read_into(start, data)
            done = 0
            try:
                for begin, end, place in zip(
                    (offsets[group] - start).tolist(),
                    (ends[group] - start).tolist(),
                    places[group].tolist(),
                    strict=True,
                ):
                    buffer[place : place + block_size] = decompress(data[begin:end], block_size)
                    done += 1
            except CompressionError as error:
                paddr = int(pfns[group[done]]) * block_size
                raise ReadError(paddr, block_size, f"its page does not decompress: {error.message}") from error

    def stored_pages(self, runs: Sequence[tuple[int, int]], page_size: int, compression: str) -> StoredPages | None:
        """The pages of ``runs`` as the file holds them, where they are raw or compressed with ``compression``."""
        if page_size != self._block_size:
            return None
        flag = int(COMPRESSION_FLAGS[compression]) if compression != "none" else 0
        pfns = _pfns(np.array(runs, np.int64).reshape(-1, 2) // page_size)
        if pfns[-1] >= self._max_mapnr or not self._rank.is_set(pfns).all():
            return None
        all_sizes, all_flags = [], []
        payload: list[bytes] = []
        for part, first, last in self._by_part(pfns):
            offsets, sizes, flags = self._descs_of(part, pfns[first:last])
            if not np.isin(flags, (0, flag)).all() or not offsets.all():
                return None
            # No writer has these: reading them tells what is wrong.
            if ((sizes == page_size) != (flags == 0)).any():
                return None
            # Zero pages are stored raw, and share one block.
            raw = np.flatnonzero(flags == 0)
            unique, where = np.unique(offsets[raw], return_inverse=True)
            blocks = b"".join(_slices(part.backing, unique, np.full(len(unique), page_size)))
            sizes[raw[zero_pages(blocks, page_size)[where]]] = 0
            payload += _slices(part.backing, offsets[sizes > 0], sizes[sizes > 0])
            all_sizes.append(sizes)
            all_flags.append(flags)
        return StoredPages(np.concatenate(all_sizes), np.concatenate(all_flags) != 0, b"".join(payload))

    def _codec(self, flag: int, pfn: int) -> Compressor:
        """What decompresses the pages with ``flag``, of which ``pfn`` is the first."""
        codec = self._codecs.get(flag)
        if codec is None:
            name = _CODEC_NAMES.get(flag)
            if name is None:
                raise ReadError(
                    pfn * self._block_size,
                    self._block_size,
                    f"its descriptor has the unknown compression flag {flag:#x}",
                    hint="the file is damaged, or newer than this pydump",
                )
            codec = self._codecs[flag] = self._compressor(name)
        return codec

    def _bad_page(self, part: _Part, pfn: int, at: int, offset: int, size: int) -> FormatError:
        where = f"the descriptor of pfn {pfn:#x} points at {size} bytes at offset {offset:#x}"
        if offset == 0:
            why = "which says that the page is lost, though the header says nothing of it"
        elif not 0 < size <= self._block_size:
            why = f"and a page has 1 to {self._block_size}"
        elif 0 < offset <= part.backing.size - size:
            why = "which is among the headers, the bitmaps or the descriptors"
        else:
            why = f"outside the file of {part.backing.size:#x} bytes"
        return FormatError(part.backing.path, f"{where}, {why}", offset=at, hint="the file is truncated or damaged")

    def flaws(self) -> Iterator[str]:
        # Source: libkdumpfile's uts_looks_sane().
        empty = [n for n in ("sysname", "release", "version", "machine") if not _text(getattr(self._header, n))]
        if empty:
            yield f"utsname lacks {', '.join(empty)}: libkdumpfile and drgn will not know the architecture"

    def problems(self) -> Iterator[str]:
        """Faults of the structure that reading pages does not meet."""
        header = self._header
        for part in self._parts:
            end, size = part.descs_end, part.backing.size
            if end > size:
                yield f"{part.backing.path}: the page descriptors end at {end:#x}, the file at {size:#x}"
        offset, size = self._sub.offset_vmcoreinfo, self._sub.size_vmcoreinfo
        if header.header_version >= 4 and offset and self._vmcoreinfo is not None:
            backing = self._parts[0].backing
            text = backing.read(offset, size) if offset + size <= backing.size else b""
            if text.rstrip(b"\0") != self._vmcoreinfo.text.rstrip(b"\0"):
                yield f"{self.path}: offset_vmcoreinfo is {offset:#x}, and the VMCOREINFO text is not there"
        beyond = Ranges.of([(self._max_mapnr * self._block_size, self._memory.end)])
        if beyond:
            yield f"{self.path}: the bitmaps have pages past max_mapnr"

    def close(self) -> None:
        for part in self._parts:
            part.backing.close()


_UTS_FIELDS: Final = ("sysname", "nodename", "release", "version", "machine", "domainname")


def _open_part(backing: Backing) -> _Part:
    """Find out a file's byte order and width and read its headers."""
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
        return _finish_part(backing, *min(found, key=lambda pair: not _holds_bitmap(pair[0])))
    raise FormatError(
        backing.path,
        "no byte order and width gives a header that makes sense",
        offset=8,
        hint="the file is truncated or damaged",
    )


def _plausible(header: DiskDumpHeader) -> bool:
    block_size = header.block_size
    return (
        0 <= header.header_version <= HEADER_VERSION + 10
        and 512 <= block_size <= 1 << 20
        and block_size & (block_size - 1) == 0
        and 0 < header.sub_hdr_size < 1 << 20
        and header.bitmap_blocks > 0
        and 0 <= header.nr_cpus < 1 << 20
    )


def _holds_bitmap(header: DiskDumpHeader) -> bool:
    """Do the bitmap's blocks have a bit for each page? Source: libkdumpfile's header_looks_sane()."""
    return header.bitmap_blocks * header.block_size * 8 >= header.max_mapnr


def _status(header: DiskDumpHeader) -> int:
    """``status`` in the numbers that KDUMP files use."""
    if header.signature != DISKDUMP_SIGNATURE:
        return header.status
    compressed = DumpDh.COMPRESSED_ZLIB if header.status & DumpHeader.COMPRESSED else 0
    return compressed | (DumpDh.COMPRESSED_INCOMPLETE if header.status & DumpHeader.INCOMPLETED else 0)


def _finish_part(backing: Backing, header: DiskDumpHeader, byte_order: ByteOrder) -> _Part:
    version, block_size = header.header_version, header.block_size
    if not 1 <= version <= HEADER_VERSION:
        raise FormatError(
            backing.path,
            f"header version {version}: versions 1 to {HEADER_VERSION} can be read",
            offset=DiskDumpHeader64.offset_of("header_version"),
        )
    raw = backing.read(block_size, KdumpSubHeader64.nbytes())
    sub = _sub_header(header, raw, byte_order, backing.size)
    max_mapnr = max(sub.max_mapnr_64, header.max_mapnr)  # the 64-bit field is there from version 6 on
    if not sub.split:
        start, end = 0, max_mapnr
    elif version >= 6:
        start, end = sub.start_pfn_64, sub.end_pfn_64
    else:
        start, end = sub.start_pfn, sub.end_pfn
    if not start <= end <= max_mapnr:
        raise FormatError(backing.path, f"it claims to hold the pfns {start:#x} to {end:#x}", offset=block_size)
    descs = (DISKDUMP_HEADER_BLOCKS + header.sub_hdr_size + header.bitmap_blocks) * block_size
    return _Part(backing, header, sub, byte_order, max_mapnr, start, end, descs)


def _sub_header(header: DiskDumpHeader, raw: bytes, byte_order: ByteOrder, file_size: int) -> KdumpSubHeader:
    """The sub header, of the three forms the one that fits, without the fields its version does not have."""
    version = header.header_version
    absent: dict[str, Any] = {name: 0 for name, since in FIELD_SINCE.items() if version < since}
    if isinstance(header, DiskDumpHeader64):
        return KdumpSubHeader64.unpack(raw, byte_order).replace(**absent)

    def fits(sub: KdumpSubHeader) -> bool:
        blobs = ((sub.offset_vmcoreinfo, sub.size_vmcoreinfo), (sub.offset_note, sub.size_note))
        sane = all(offset + size <= file_size and (offset == 0) == (size == 0) for offset, size in blobs)
        return sane and (version < 6 or sub.max_mapnr_64 >= header.max_mapnr)

    packed = KdumpSubHeader32.unpack(raw, byte_order).replace(**absent)
    aligned = KdumpSubHeader32Aligned.unpack(raw, byte_order).replace(**absent)
    # Read in the wrong form, notes may well look like none at all; a form in which there are some is the right one.
    blind = not packed.size_note and not packed.size_vmcoreinfo and (aligned.size_note or aligned.size_vmcoreinfo)
    return aligned if fits(aligned) and (blind or not fits(packed)) else packed


def _check_set(parts: list[_Part], max_mapnr: int) -> None:
    """Do the parts belong together, and are all there?"""
    first = parts[0]
    if len(parts) == 1 and not first.sub.split:
        return
    names = ", ".join(part.backing.path for part in parts)
    once = "name each part once"
    at = 0
    for part in parts:
        if part.header != first.header or part.byte_order != first.byte_order:
            raise PlanError(f"{part.backing.path} and {first.backing.path} are not parts of one dump")
        if not part.sub.split and len(parts) > 1:
            raise PlanError(f"{part.backing.path} is a whole dump, not a part of one", hint="name it alone")
        if part.start_pfn < at:
            raise PlanError(f"{part.backing.path} holds pages that another part holds, too: {names}", hint=once)
        if part.start_pfn > at:
            raise PlanError(
                f"the part with the pfns {at:#x} to {part.start_pfn:#x} is missing: {names}",
                hint="name all parts, separated by commas",
            )
        at = part.end_pfn
    if at < max_mapnr:
        raise PlanError(
            f"the part with the pfns {at:#x} to {max_mapnr:#x} is missing: {names}",
            hint="name all parts, separated by commas",
        )


def _pfns(runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every pfn of ``(first, end)`` rows."""
    lengths = runs[:, 1] - runs[:, 0]
    ends = np.cumsum(lengths)
    pfns: NDArray[np.int64] = np.repeat(runs[:, 0] - ends + lengths, lengths) + np.arange(lengths.sum())
    return pfns


def _ranges(bitmap: Bitmap, n_bits: int) -> Ranges:
    arrays = list(bitmap.runs(n_bits))
    return Ranges.of_array(np.concatenate(arrays) if arrays else np.empty((0, 2), np.int64))


def _distinct(*columns: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The first of each set of equal rows, ascending in the first column, and for each row which of them it equals."""
    order = np.lexsort(columns[::-1])
    starts = np.ones(len(order), bool)
    starts[1:] = np.any([np.diff(column[order]) != 0 for column in columns], axis=0)
    owner = np.empty(len(order), np.intp)
    owner[order] = np.cumsum(starts) - 1
    return order[starts], owner


def _slices(backing: Backing, offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> Iterator[bytes]:
    """The bytes of pages in turn, read in as few pieces as their order allows."""
    if not len(offsets):
        return
    breaks = np.flatnonzero(offsets[1:] != (offsets + sizes)[:-1]) + 1
    for piece in np.split(np.arange(len(offsets)), breaks):
        start = int(offsets[piece[0]])
        yield backing.read(start, int(offsets[piece[-1]] + sizes[piece[-1]]) - start)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")
