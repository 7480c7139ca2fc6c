"""Writes kdump files in which equal pages share their data, as zero pages do in every kdump file."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pydump.errors import PlanError
from pydump.interfaces.compressor import Compressor
from pydump.interfaces.format import Batch, Encoded
from pydump.interfaces.sink import Extent, Hole
from pydump.interfaces.source import StoredPages
from pydump.layout.zero import zero_pages
from pydump.model.plan import Plan
from pydump_format_kdump.layout import PageDesc
from pydump_format_kdump.writer import KdumpWriter

#: Slots of the table of pages at most: 128 MiB, room for 12 GiB of distinct 4 KiB pages.
MAX_SLOTS: Final = 1 << 22
#: So much of the table is filled, in quarters; the rest keeps searches short.
FILLED: Final = 3

#: A page that was written: the two halves of its digest, and its descriptor's fields. An offset of 0: a free slot.
SLOT: Final = np.dtype([("low", "u8"), ("high", "u8"), ("offset", "i8"), ("size", "u4"), ("flags", "u4")])


class WrittenPages:
    """Where pages are that were written, in memory that forked processes share.

    Only one process may add at a time; one that looks meanwhile may miss what is being added.

    Args:
        n_pages: There will not be more. Of more than fit the first are remembered.
    """

    def __init__(self, n_pages: int) -> None:
        n_slots = min(MAX_SLOTS, max(1024, 1 << (n_pages * 4 // FILLED).bit_length()))
        self._mask = np.uint64(n_slots - 1)
        self._limit = n_slots // 4 * FILLED
        # The first eight bytes count the pages.
        self._map = mmap.mmap(-1, SLOT.itemsize * (n_slots + 1))
        self._count = np.frombuffer(self._map, np.int64, 1)
        self._slots = np.frombuffer(self._map, SLOT, n_slots, SLOT.itemsize)

    def find(self, digests: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The slot of each page, or -1.

        Args:
            digests: Shape (n, 2).
        """
        found = np.full(len(digests), -1, np.int64)
        left, at = np.arange(len(digests)), digests[:, 0] & self._mask
        while len(left):
            slots = self._slots[at]
            same = (slots["low"] == digests[left, 0]) & (slots["high"] == digests[left, 1]) & (slots["offset"] > 0)
            found[left[same]] = at[same]
            taken = ~same & (slots["offset"] > 0)
            left, at = left[taken], (at[taken] + np.uint64(1)) & self._mask
        return found

    def descs(self, slots: NDArray[np.int64]) -> NDArray[Any]:
        """The entries at ``slots``, with the fields of a descriptor."""
        entries: NDArray[Any] = self._slots[slots]
        return entries

    def add(self, digests: NDArray[np.uint64], descs: NDArray[Any]) -> None:
        """Remember pages that are not there yet, as far as there is room.

        Args:
            digests: Shape (n, 2), all distinct.
            descs: Their descriptors, shape (n,).
        """
        room = self._limit - int(self._count[0])
        digests, descs = digests[:room], descs[:room]
        self._count[0] += len(digests)
        left, at = np.arange(len(digests)), digests[:, 0] & self._mask
        while len(left):
            # Of those that want the same slot the first gets it, if it is free.
            wins = np.zeros(len(left), bool)
            wins[np.unique(at, return_index=True)[1]] = True
            wins &= self._slots["offset"][at] == 0
            won, where = left[wins], at[wins]
            entries = np.empty(len(won), SLOT)
            entries["low"], entries["high"] = digests[won].T
            for name in ("offset", "size", "flags"):
                entries[name] = descs[name][won]
            self._slots[where] = entries
            left, at = left[~wins], (at[~wins] + np.uint64(1)) & self._mask


@dataclass(frozen=True, slots=True)
class _Pages:
    """The pages of a batch that are not zero, before it is known where they go.

    Attributes:
        descs: The batch's descriptors, those of zero pages complete.
        stored: Which of them are of pages that are not zero, shape (n,).
        first: For each of those the first one with the same bytes in this batch, as an index into itself, shape (n,).
        digests: Of each that is its own first, in order, shape (m, 2).
        chunks: What is written of each of those, or None where it was there before, m of them.
        flags: How each of those is compressed, shape (m,).
    """

    descs: NDArray[Any]
    stored: NDArray[np.int64]
    first: NDArray[np.int64]
    digests: NDArray[np.uint64]
    chunks: list[Any]
    flags: NDArray[np.uint32]


class DedupKdumpWriter(KdumpWriter):
    """One dump in which equal pages are compressed and stored once.

    Pages are equal when a 128-bit digest of their bytes is, keyed with a number drawn for each dump, so that no guest
    can make two pages that pass for equal. Which page is stored, the first in the file, depends on neither the key nor
    the number of workers.
    """

    def __init__(self, plan: Plan, compressor: Compressor | None) -> None:
        if plan.compat == "qemu":
            raise PlanError("QEMU stores every page", hint="leave --dedup or --compat out")
        super().__init__(plan, compressor)
        self._key = int.from_bytes(os.urandom(8))
        self._written = WrittenPages(self.n_pages)

    def encode(self, batch: Batch) -> Encoded:
        if batch.stored is not None:
            return self._encoded(batch, *_stored_pages(batch.stored, int(self._flag)))
        if batch.data is None:
            return super().encode(batch)
        block_size = self.unit
        stored = np.flatnonzero(~zero_pages(batch.data, block_size))
        offsets = (stored * block_size).tolist()
        return self._encoded(batch, stored, [batch.data[at : at + block_size] for at in offsets], None)

    def _encoded(
        self, batch: Batch, stored: NDArray[np.int64], pages: Sequence[memoryview], flags: NDArray[np.uint32] | None
    ) -> Encoded:
        """Find equal pages, and compress what is not known to be there.

        Args:
            batch: The batch.
            stored: Which of its pages are not zero.
            pages: Their bytes.
            flags: How those are compressed already, or None where they are not.
        """
        from xxhash import xxh3_128_digest

        key = self._key
        seen: dict[bytes, int] = {}
        first = np.array([seen.setdefault(xxh3_128_digest(page, key), i) for i, page in enumerate(pages)], np.int64)
        digests = np.frombuffer(b"".join(seen), np.uint64).reshape(-1, 2)
        own = np.fromiter(seen.values(), np.int64, len(seen))
        wanted = np.flatnonzero(self._written.find(digests) < 0)
        chunks: list[Any] = [None] * len(own)
        if flags is not None:
            for i in wanted.tolist():
                chunks[i] = pages[own[i]]
            own_flags = flags[own]
        else:
            own_flags = np.zeros(len(own), np.uint32)
            assert batch.data is not None
            packed, own_flags[wanted] = self._compressed(batch.data, stored[own[wanted]])
            for i, chunk in zip(wanted.tolist(), packed, strict=True):
                chunks[i] = chunk
        table = _Pages(self._zero_descs(batch), stored, first, digests, chunks, own_flags)
        # How much of it is written shows when it is placed.
        taken_size = len(stored) * self.unit if flags is not None else 0
        zero_size = self._zero_size(batch, len(stored))
        return Encoded(batch.position, 0, None, table, batch.size, zero_size, taken_size)

    def place(self, encoded: Encoded, start: int) -> Encoded:
        pages = encoded.table
        if not isinstance(pages, _Pages):
            return encoded
        slots = self._written.find(pages.digests)
        new = np.flatnonzero(slots < 0)
        chunks = [pages.chunks[i] for i in new.tolist()]
        sizes = np.fromiter(map(len, chunks), np.int64, len(chunks))
        ends = np.cumsum(sizes)
        descs = self._written.descs(slots)
        fresh = np.empty(len(new), SLOT)
        fresh["offset"], fresh["size"], fresh["flags"] = start + ends - sizes, sizes, pages.flags[new]
        descs[new] = fresh
        self._written.add(pages.digests[new], fresh)
        own = np.flatnonzero(pages.first == np.arange(len(pages.first)))
        of_each = descs[np.searchsorted(own, pages.first)]
        for name in ("offset", "size", "flags"):
            pages.descs[name][pages.stored] = of_each[name]
        return replace(encoded, grows=int(sizes.sum()), table=(pages.descs, chunks))

    def extents(self, encoded: Encoded, start: int) -> Iterator[Extent | Hole]:
        descs, chunks = encoded.table
        yield Extent(self._descs + encoded.position // self.unit * PageDesc.nbytes(), descs.view(np.uint8).data)
        if chunks:
            yield Extent(start, b"".join(chunks))


def _stored_pages(pages: StoredPages, flag: int) -> tuple[NDArray[np.int64], list[memoryview], NDArray[np.uint32]]:
    """Which pages that come from another kdump file are not zero, their bytes there, and their flags."""
    stored = np.flatnonzero(pages.sizes)
    ends = np.cumsum(pages.sizes[stored])
    starts = ends - pages.sizes[stored]
    view = memoryview(pages.payload)
    slices = [view[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    return stored, slices, np.where(pages.compressed[stored], flag, 0).astype(np.uint32)
