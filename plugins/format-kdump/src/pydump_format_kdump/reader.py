"""A kdump-compressed dump as a source: both widths, both byte orders, whole, cut off, or split over several files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pydump.errors import ReadError, UnknownPluginError
from pydump.interfaces.backing import Backing
from pydump.interfaces.format import Decompressors
from pydump.interfaces.image import MemoryImage, Place, StoredPages
from pydump.model.guest import Guest, Utsname
from pydump.model.memory import MemoryMap, Ranges
from pydump_format_kdump.holdings import in_bytes, read_holdings
from pydump_format_kdump.layout import COMPRESSION_FLAGS, HEADER_VERSION, DiskDumpHeader64, DumpDh, PageDesc
from pydump_format_kdump.notes import read_texts
from pydump_format_kdump.pages import Pages
from pydump_format_kdump.parts import Part, open_parts
from pydump_format_kdump.settled import settled

#: Bytes of page descriptors that are fetched of a remote file for the number of lost pages alone.
LARGE_TABLE: Final = 192 << 10
_UTS_FIELDS: Final = ("sysname", "nodename", "release", "version", "machine", "domainname")


class KdumpImage(MemoryImage):
    """A kdump-compressed dump.

    Raises:
        FormatError: A header or a bitmap makes no sense.
        PlanError: Files that are no parts of one dump are named together.
    """

    def __init__(self, files: Sequence[Backing], compressor: Decompressors) -> None:
        self._compressor = compressor
        parts, self._missing = open_parts(files)
        # Every part has the headers, notes and bitmaps: those of the one that was cut off last, if any was, are read.
        best = max(parts, key=lambda part: min(part.backing.size, part.headers.descs))
        self.path = best.backing.path
        self._best, self._headers = best, best.headers
        self._block_size = best.headers.block_size
        self._holdings = read_holdings(best.backing, best.headers)
        self._parts = [self._counted(part) for part in parts]
        self._holdings, self._damage = settled(best, self._parts, self._holdings)
        if self._damage:
            self._parts = [self._counted(part) for part in parts]
        self._texts = read_texts(best, self._parts)
        self._pages = Pages(self._parts, self._holdings, compressor)
        self._memory = self._in_bytes(self._holdings.present)

    def _counted(self, part: Part) -> Part:
        rank, headers = self._holdings.rank, part.headers
        first = rank(headers.start_pfn)
        return replace(part, first=first, n_pages=rank(headers.end_pfn) - first)

    def _in_bytes(self, pages: Ranges) -> Ranges:
        return in_bytes(pages, self._headers, self._holdings.first_paddr)

    # -- facts

    def guest(self) -> Guest:
        header, sub = self._headers.main, self._headers.sub
        return Guest(
            MemoryMap.of((start, end - start) for start, end in self._memory),
            byte_order=self._headers.byte_order,
            elf_class=64 if isinstance(header, DiskDumpHeader64) else 32,
            page_size=self._block_size,
            phys_base=sub.phys_base,
            notes=self._texts.notes,
            vmcoreinfo=self._texts.vmcoreinfo,
            utsname=Utsname(*(_text(getattr(header, name)) for name in _UTS_FIELDS)),
            n_cpus=header.nr_cpus if 0 < header.nr_cpus < 1 << 16 else None,
            dump_level=sub.dump_level,
            excluded_vmemmap=bool(self._headers.status & DumpDh.EXCLUDED_VMEMMAP),
        )

    def excluded(self) -> Ranges:
        return self._excluded

    @cached_property
    def _excluded(self) -> Ranges:
        return self._in_bytes(self._holdings.excluded)

    def unreadable(self) -> Ranges:
        return self._lost

    @cached_property
    def _lost(self) -> Ranges:
        return self._in_bytes(self._pages.lost)

    def more_lost(self) -> bool:
        headers = self._headers  # the first bitmap states where RAM is
        size = -(-headers.max_mapnr // 8)
        return not headers.whole or any(self._best.backing.missing(headers.bitmaps, size))

    def absent(self, start: int, end: int) -> tuple[Ranges, Ranges]:
        """What of a range was left out, and what is lost: by its own descriptors, unless all were looked at before."""
        if "_lost" in vars(self) and not self._holdings.indexed:
            return self._excluded.clip(start, end), self._lost.clip(start, end)
        first_paddr, block_size = self._holdings.first_paddr, self._block_size
        first, last = (start - first_paddr) // block_size, -((first_paddr - end) // block_size)
        found = self._pages.absent(max(0, first), min(last, self._headers.max_mapnr))
        excluded, lost = (self._in_bytes(pages).clip(start, end) for pages in found)
        return excluded, lost

    def absent_sizes(self) -> tuple[int, int | None]:
        """Bytes that were left out, and that are lost; None for those where a table of a remote file tells it."""
        lost = self._n_lost * self._block_size if self._counts_lost else None
        return self._holdings.n_excluded * self._block_size, lost

    @cached_property
    def _n_lost(self) -> int:
        return self._pages.n_lost if self._holdings.indexed else self._lost.size // self._block_size

    @cached_property
    def _counts_lost(self) -> bool:
        """Whether lost pages are counted for a message: not where a large table would be fetched for it."""
        table = self._holdings.n_dumped * PageDesc.nbytes()
        return table <= LARGE_TABLE or not any(part.backing.remote for part in self._parts)

    def describe(self) -> tuple[tuple[str, str], ...]:
        headers, holdings = self._headers, self._holdings
        flattened = ", flattened" if self._best.backing.flattened else ""
        version = headers.main.header_version
        rows = [
            ("format", f"kdump-compressed version {version}, {self._block_size}-byte blocks{flattened}"),
            ("compression", self._compression()),
        ]
        if len(self._parts) > 1:
            rows.append(("parts", ", ".join(part.backing.path for part in self._parts)))
        if holdings.first_paddr:
            rows.append(("first page", f"{holdings.first_paddr:#x}: pages are counted from phys_base"))
        if headers.status & DumpDh.COMPRESSED_INCOMPLETE:
            pages = f"; {self._n_lost} pages are lost" if self._counts_lost else ""
            rows.append(("incomplete", f"the header says so{pages}"))
        return tuple(rows)

    def _compression(self) -> str:
        """The compressors that the header names, or where it names none, those of the first pages."""
        status = self._headers.status
        codecs = [self._codec_label(name) for name, flag in COMPRESSION_FLAGS.items() if status & flag]
        if codecs:
            return ", ".join(codecs)
        if any(part.backing.size < part.headers.descs for part in self._parts):
            return "not known: the header says none, and the file ends before its page descriptors"
        found = [self._codec_label(name) for name in self._pages.codec_names()]
        return f"{', '.join(found)}; the header says none" if found else "none"

    def _codec_label(self, name: str) -> str:
        try:
            return f"{name}, read with {self._compressor(name).producer}"
        except UnknownPluginError as error:
            return f"{name}, and its plugin is not installed: {error.hint}"

    # -- memory

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        block_size, first_paddr = self._block_size, self._holdings.first_paddr
        start, end = paddr - first_paddr, paddr + len(buffer) - first_paddr
        first, last = start // block_size, -(-end // block_size)
        pfns = np.arange(first, last)
        self._check(pfns)
        if first * block_size == start and last * block_size == end:
            self._pages.read(pfns, buffer)
            return
        # The range begins or ends within a block (a 64 KiB block read by a tool that thinks in 4 KiB pages).
        whole = bytearray((last - first) * block_size)
        self._pages.read(pfns, memoryview(whole))
        skip = start - first * block_size
        buffer[:] = memoryview(whole)[skip : skip + len(buffer)]

    def read_runs(self, runs: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        """The pages of a filtered dump lie in runs by the thousand, and one costs little more than all together."""
        bounds = np.array(runs, np.int64).reshape(-1, 2)
        if len(runs) < 2 or (bounds % self._block_size).any():
            super().read_runs(runs, buffer)
            return
        pfns = self._pfns(bounds)
        self._check(pfns)
        self._pages.read(pfns, buffer)

    def place(self, paddr: int) -> Place | None:
        return self._pages.place((paddr - self._holdings.first_paddr) // self._block_size)

    def stored_pages(self, runs: Sequence[tuple[int, int]], page_size: int, compression: str) -> StoredPages | None:
        """The pages of ``runs`` as the file holds them, where they are raw or compressed with ``compression``."""
        if page_size != self._block_size:
            return None
        return self._pages.stored(self._pfns(np.array(runs, np.int64).reshape(-1, 2)), compression)

    def _pfns(self, runs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Every pfn of ``(start, end)`` rows of whole pages."""
        runs = (runs - self._holdings.first_paddr) // self._block_size
        lengths = runs[:, 1] - runs[:, 0]
        ends = np.cumsum(lengths)
        pfns: NDArray[np.int64] = np.repeat(runs[:, 0] - ends + lengths, lengths) + np.arange(lengths.sum())
        return pfns

    def _check(self, pfns: NDArray[np.int64]) -> None:
        """Refuse pages that the file cannot have."""
        if len(pfns) and not 0 <= pfns[0] <= pfns[-1] < self._headers.max_mapnr:
            paddr = int(pfns[0]) * self._block_size + self._holdings.first_paddr
            raise ReadError(paddr, len(pfns) * self._block_size, "it is not among the pages of the dump")

    # -- faults

    def defects(self) -> Iterator[str]:
        # Source: libkdumpfile's uts_looks_sane().
        names = ("sysname", "release", "version", "machine")
        empty = [name for name in names if not _text(getattr(self._headers.main, name))]
        if empty:
            yield f"utsname lacks {', '.join(empty)}: libkdumpfile and drgn will not know the architecture"

    def warnings(self) -> tuple[str, ...]:
        version = self._headers.main.header_version
        lines = [*self._texts.warnings]
        if version > HEADER_VERSION:
            lines.append(f"header version {version} is read as version {HEADER_VERSION}, the last known one")
        elif version < 1:
            lines.append(f"header version {version} has no place for notes and VMCOREINFO")
        causes = [self._named(part, cause) for part in self._parts for cause in self._causes(part)]
        if self._damage:
            (causes if self._holdings.unknown else lines).append(self._damage)
        for start, end in self._missing:
            causes.append(
                f"the part with the pfns {start:#x} to {end:#x} is missing; name all parts, separated by commas"
            )
        if causes and self.more_lost():
            causes[-1] += "; how many pages are lost is not known"
        elif causes and not self._counts_lost:
            causes[-1] += "; pages are unreadable, and verify counts them"
        elif causes or vars(self).keys() & {"_lost", "_n_lost"}:
            n = self._n_lost
            admitted = self._headers.status & DumpDh.COMPRESSED_INCOMPLETE
            if n and not causes and not admitted:
                causes.append(self._pages.why_lost())
            if causes:
                causes[-1] += f"; {n} page{' is' if n == 1 else 's are'} unreadable"
        return (*lines, *causes)

    def _causes(self, part: Part) -> Iterator[str]:
        """Why pages of a part are lost, so far as the file shows at a glance."""
        yield from part.backing.warnings
        where = part.cut or ("the page data" if self._pages.is_cut(part) else "")
        if where and not part.backing.warnings:
            yield f"the file ends at {part.backing.size:#x}, within {where}"

    def _named(self, part: Part, line: str) -> str:
        return f"{part.backing.path}: {line}" if len(self._parts) > 1 else line

    def problems(self) -> Iterator[str]:
        """Faults of the structure that reading pages does not meet."""
        if self._damage:
            yield f"{self.path}: {self._damage}"
        sub, info = self._headers.sub, self._texts.vmcoreinfo
        offset, size = sub.offset_vmcoreinfo, sub.size_vmcoreinfo
        if self._headers.main.header_version >= 4 and offset and info is not None:
            backing = self._best.backing
            text = backing.read(offset, size) if offset + size <= backing.size else b""
            if text.rstrip(b"\0") != info.text.rstrip(b"\0"):
                yield f"{self.path}: offset_vmcoreinfo is {offset:#x}, and the VMCOREINFO text is not there"

    def close(self) -> None:
        for part in self._parts:
            part.backing.close()


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")
