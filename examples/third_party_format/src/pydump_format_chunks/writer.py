"""Writes chunk files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import astuple, dataclass

from pydump.interfaces.compressor import Compressor
from pydump.interfaces.sink import Extent, Hole
from pydump.interfaces.writer import Batch, Encoded, Encoder, Writer
from pydump.layout.zero import zero_pages
from pydump.model.plan import Plan
from pydump_format_chunks import CHUNK, ENTRY, MAGIC, PREFIX


@dataclass(frozen=True, slots=True)
class ChunksEncoder(Encoder[list[tuple[int, int]]]):
    """Compresses chunks.

    Attributes:
        compressor: What they are compressed with, or None.
        table: Where in the file the entries begin.
    """

    compressor: Compressor | None
    table: int

    def encode(self, batch: Batch) -> Encoded[list[tuple[int, int]]]:
        if batch.data is None:  # all zero: the entries are zero as well, and nobody writes them
            return Encoded(batch.position, 0, None, [], batch.size, batch.size)
        zero = zero_pages(batch.data, CHUNK)
        wanted = [i * CHUNK for i in range(len(zero)) if not zero[i]]
        plain = [bytes(batch.data[at : at + CHUNK]) for at in wanted]
        packed = self.compressor.compress_batch(batch.data, CHUNK, wanted) if self.compressor else plain
        chunks = [small if len(small) < CHUNK else page for small, page in zip(packed, plain, strict=True)]
        payload = b"".join(chunks)
        entries = [(at, len(chunk)) for at, chunk in zip(wanted, chunks, strict=True)]
        return Encoded(batch.position, len(payload), payload, entries, batch.size, int(zero.sum()) * CHUNK)

    def extents(
        self, encoded: Encoded[list[tuple[int, int]]], start: int, answer: None = None
    ) -> Iterator[Extent | Hole]:
        if not encoded.payload:
            return
        table = bytearray(encoded.size // CHUNK * ENTRY.size)
        offset = start
        for at, size in encoded.table:
            ENTRY.pack_into(table, at // CHUNK * ENTRY.size, offset, size, size < CHUNK)
            offset += size
        yield Extent(self.table + encoded.position // CHUNK * ENTRY.size, table)
        yield Extent(start, encoded.payload)


class ChunksWriter(Writer):
    """Where a batch's entries go follows from the plan, where its chunks go from those before it."""

    def __init__(self, plan: Plan, compressor: Compressor | None) -> None:
        guest = plan.guest
        self._compressor = compressor
        self.stored = plan.readable().page_aligned(CHUNK)
        self.unit = CHUNK
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
                "excluded": list(plan.excluded),
                "unreadable": list(plan.unreadable),
                "chunks": list(self.stored),
                "compression": plan.compression,
            }
        ).encode()
        self._head = PREFIX.pack(MAGIC, len(header)) + header
        self.start = len(self._head) + self.stored.size // CHUNK * ENTRY.size
        self.size_limit = self.start + self.stored.size

    def headers(self) -> Iterator[Extent | Hole]:
        yield Extent(0, self._head)

    def encoder(self) -> ChunksEncoder:
        return ChunksEncoder(self._compressor, len(self._head))
