"""Makes page descriptors and compressed pages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pydump.interfaces.compressor import Compressor
from pydump.interfaces.image import StoredPages
from pydump.interfaces.sink import Extent, Hole
from pydump.interfaces.writer import Batch, Encoded, Encoder
from pydump.layout.zero import zero_pages
from pydump.model.guest import ByteOrder
from pydump.model.memory import Ranges
from pydump_format_kdump.layout import PageDesc

#: A descriptor for each page of a batch, and which of them lie in its payload, with offsets counted from its begin.
_Table: TypeAlias = tuple[NDArray[Any], NDArray[np.int64] | None]


@dataclass(frozen=True, slots=True)
class PageEncoder:
    """What all kdump encoders need.

    Attributes:
        byte_order: The guest's.
        page_size: Bytes, which is the block size too.
        compressor: Compresses each page, or None.
        flag: What descriptors of compressed pages say.
        lost: The numbers of pages, among those that are dumped, that the source has lost.
        descs: Where in the file the first descriptor lies.
        zero: Where the page lies that stands for all pages of zeros.
    """

    byte_order: ByteOrder
    page_size: int
    compressor: Compressor | None
    flag: int
    lost: Ranges
    descs: int
    zero: int

    def zero_descs(self, batch: Batch) -> NDArray[Any]:
        """A descriptor for each page of a batch, as if all were zero but those that are lost."""
        table = np.zeros(batch.size // self.page_size, PageDesc.dtype(self.byte_order))
        table["offset"] = self.zero
        table["size"] = self.page_size
        first = batch.position // self.page_size
        for start, end in self.lost.clip(first, first + len(table)):
            table[start - first : end - first] = 0
        for start, end in batch.lost:
            table[start // self.page_size : -(-end // self.page_size)] = 0
        return table

    def zero_size(self, batch: Batch, n_stored: int) -> int:
        """Bytes of a batch in pages of zeros, when ``n_stored`` pages have data."""
        page_size = self.page_size
        first, last = batch.position // page_size, (batch.position + batch.size) // page_size
        n_lost = self.lost.clip(first, last).size + sum(-(-b // page_size) - a // page_size for a, b in batch.lost)
        return (last - first - n_stored - n_lost) * page_size

    def compressed(
        self, data: memoryview, pages: NDArray[np.int64]
    ) -> tuple[list[Any], NDArray[np.int64], NDArray[np.uint32]]:
        """What is stored of some pages of ``data``, its sizes, and its flags.

        A page that does not shrink is stored as it is.
        """
        page_size = self.page_size
        offsets: list[int] = (pages * page_size).tolist()
        if self.compressor is None:
            chunks: list[Any] = [data[at : at + page_size] for at in offsets]
        else:
            chunks = [*self.compressor.compress_batch(data, page_size, offsets)]
        sizes = np.fromiter(map(len, chunks), np.int64, len(chunks))
        plain = np.flatnonzero(sizes >= page_size)
        for i in plain.tolist():
            chunks[i] = data[offsets[i] : offsets[i] + page_size]
        flags = np.full(len(pages), self.flag, np.uint32)
        sizes[plain], flags[plain] = page_size, 0
        return chunks, sizes, flags

    def descs_at(self, position: int) -> int:
        """Where in the file the descriptors of a batch lie."""
        return self.descs + position // self.page_size * PageDesc.nbytes()


@dataclass(frozen=True)
class KdumpEncoder(PageEncoder, Encoder[_Table]):
    """Stores each page that is not zero."""

    def encode(self, batch: Batch) -> Encoded[_Table]:
        page_size = self.page_size
        table = self.zero_descs(batch)
        if batch.stored is not None:
            return self._taken(batch, batch.stored, table)
        if batch.data is None:
            return Encoded(batch.position, 0, None, (table, None), batch.size, self.zero_size(batch, 0))
        stored = np.flatnonzero(~zero_pages(batch.data, page_size))
        payload: bytes | memoryview
        if self.compressor is None:
            sizes = np.full(len(stored), page_size, np.int64)
            if len(stored) == len(table):
                payload = batch.data
            else:
                payload = np.frombuffer(batch.data, np.uint8).reshape(-1, page_size)[stored].reshape(-1).data
        else:
            chunks, sizes, table["flags"][stored] = self.compressed(batch.data, stored)
            payload = b"".join(chunks)
        ends = np.cumsum(sizes)
        table["offset"][stored] = ends - sizes
        table["size"][stored] = sizes
        zero_size = self.zero_size(batch, len(stored))
        return Encoded(batch.position, len(payload), payload, (table, stored), batch.size, zero_size)

    def _taken(self, batch: Batch, pages: StoredPages, table: NDArray[Any]) -> Encoded[_Table]:
        """Pages that another kdump file holds just so."""
        stored = np.flatnonzero(pages.sizes)
        sizes = pages.sizes[stored]
        table["offset"][stored] = np.cumsum(sizes) - sizes
        table["size"][stored] = sizes
        table["flags"][stored] = np.where(pages.compressed[stored], self.flag, 0)
        taken_size = len(stored) * self.page_size
        zero_size = batch.size - taken_size
        return Encoded(
            batch.position, len(pages.payload), pages.payload, (table, stored), batch.size, zero_size, taken_size
        )

    def extents(self, encoded: Encoded[_Table], start: int, answer: None = None) -> Iterator[Extent | Hole]:
        table, stored = encoded.table
        if stored is not None:
            table = table.copy()  # one that has come from another process cannot be written
            table["offset"][stored] += start
        yield Extent(self.descs_at(encoded.position), table.view(np.uint8).data)
        if encoded.payload:
            yield Extent(start, encoded.payload)
