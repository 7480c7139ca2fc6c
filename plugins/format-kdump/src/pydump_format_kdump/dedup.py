"""Writes kdump files in which equal pages share their data, as zero pages do in every kdump file."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from pydump.errors import PlanError
from pydump.interfaces.compressor import Compressor
from pydump.interfaces.image import StoredPages
from pydump.interfaces.sink import Extent, Hole
from pydump.interfaces.writer import Batch, Encoded, Encoder, Placer
from pydump.layout.zero import zero_pages
from pydump.model.plan import Plan
from pydump_format_kdump.encoder import PageEncoder
from pydump_format_kdump.writer import KdumpWriter

#: Pages that are remembered at most: 160 MiB, and 12 GiB of distinct pages of 4 KiB.
MAX_PAGES: Final = 3 << 20
#: A page that was written: the two halves of its digest, its offset, and its size with its flags above.
ENTRY: Final = 4
#: Numbers of entries that lie side by side, in one line of the processor's cache, and are looked at together.
BUCKET: Final = 8
#: The bits of it that hold a number.
_NUMBER: Final = np.uint64(0xFFFFFFFF)


class WrittenPages:
    """Where pages are that were written, in memory that forked processes share.

    One process adds; another one that looks meanwhile may miss what is being added.

    Entries lie one behind the other, and a table of their numbers says where to look: the less memory is touched for
    the first time, which is what costs, the better. The table is at most half full, so that buckets hardly ever are.

    Args:
        n_pages: There will not be more. Of more than fit the first are remembered.
    """

    def __init__(self, n_pages: int) -> None:
        self._limit = max(1, min(n_pages, MAX_PAGES))
        n_buckets = 1 << (self._limit * 2 // BUCKET).bit_length()
        self._mask = np.uint64(n_buckets - 1)
        # The first eight bytes count the entries.
        at = 64 + 8 * BUCKET * n_buckets
        self._map = mmap.mmap(-1, at + 8 * ENTRY * self._limit)
        self._count = np.frombuffer(self._map, np.int64, 1)
        #: By the first half of the digest: numbers of entries, counted from 1, below 32 bits of the second half. Behind
        #: them zeros.
        self._buckets = np.frombuffer(self._map, np.uint64, BUCKET * n_buckets, 64).reshape(-1, BUCKET)
        self._entries = np.frombuffer(self._map, np.uint64, ENTRY * self._limit, at).reshape(-1, ENTRY)

    def find(self, digests: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The number of each page's entry, or 0.

        Args:
            digests: Shape (n, 2).
        """
        found = np.zeros(len(digests), np.int64)
        left, at = np.arange(len(digests)), digests[:, 0] & self._mask
        while len(left):
            buckets = self._buckets[at]
            rows, columns = np.nonzero((buckets ^ digests[left, 1:2]) <= _NUMBER)
            if len(rows):
                numbers = (buckets[rows, columns] & _NUMBER).astype(np.int64)
                which = left[rows]
                entries = self._entries[numbers - 1]
                same = (entries[:, 0] == digests[which, 0]) & (entries[:, 1] == digests[which, 1]) & (numbers > 0)
                found[which[same]] = numbers[same]
            full = np.flatnonzero(buckets[:, -1])
            full = full[found[left[full]] == 0]
            left, at = left[full], (at[full] + np.uint64(1)) & self._mask
        return found

    def entries(self, numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The entries of these numbers, none of them 0, shape (n, 4)."""
        entries: NDArray[np.uint64] = self._entries[numbers - 1]
        return entries

    def add(self, entries: NDArray[np.uint64]) -> None:
        """Remember pages that are not there yet, as far as there is room.

        Args:
            entries: Shape (n, 4), their digests all distinct.
        """
        count = int(self._count[0])
        entries = entries[: self._limit - count]
        self._entries[count : count + len(entries)] = entries
        self._count[0] = count + len(entries)
        numbers = np.arange(count + 1, count + 1 + len(entries), dtype=np.uint64) | entries[:, 1] & ~_NUMBER
        at = entries[:, 0] & self._mask
        while len(at):
            filled = np.count_nonzero(self._buckets[at], axis=1)
            full = filled == BUCKET
            at[full] = (at[full] + np.uint64(1)) & self._mask
            free = ~full
            # Of those that want the same place one gets it, and the others look again.
            self._buckets[at[free], filled[free]] = numbers[free]
            others = full
            others[free] = self._buckets[at[free], filled[free]] != numbers[free]
            numbers, at = numbers[others], at[others]


@dataclass(frozen=True, slots=True)
class _Pages:
    """The pages of a batch that are not zero, before it is known where they go.

    Attributes:
        descs: The batch's descriptors, those of zero pages complete.
        stored: Which of them are of pages that are not zero, shape (n,).
        which: For each of those, which of the distinct ones it is, shape (n,).
        chunks: What may be written, in the order of the distinct ones.
    """

    descs: NDArray[Any]
    stored: NDArray[np.int64]
    which: NDArray[np.int64]
    chunks: list[Any]

    def __reduce__(self) -> tuple[Any, ...]:
        return _Pages, (self.descs, self.stored, self.which, [bytes(chunk) for chunk in self.chunks])


@dataclass(frozen=True, slots=True)
class _Summary:
    """The distinct pages of a batch.

    Attributes:
        digests: Shape (m, 2).
        known: The number of each one's entry in the table of written pages, or 0, shape (m,).
        wanted: Which have none, shape (k,).
        sizes: What those are stored in, in bytes, shape (k,).
        flags: How those are compressed, shape (k,).
    """

    digests: NDArray[np.uint64]
    known: NDArray[np.int64]
    wanted: NDArray[np.int64]
    sizes: NDArray[np.int64]
    flags: NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class _Answer:
    """Where the distinct pages of a batch are.

    Attributes:
        places: Of each its offset, and its size with its flags above, shape (m, 2).
        new: Which of those that were wanted are written now, shape (l,).
    """

    places: NDArray[np.uint64]
    new: NDArray[np.int64]


@dataclass(frozen=True)
class DedupEncoder(PageEncoder, Encoder[_Pages]):
    """Finds the distinct pages of a batch, and compresses them.

    Attributes:
        key: Of the digests.
        written: Pages that need not be compressed, for they have been written. It need not be complete or up to date,
            and does not go along when this is pickled: the placer leaves out what it knows to be there.
    """

    key: int
    written: WrittenPages | None

    def __reduce__(self) -> tuple[Any, ...]:
        values = [getattr(self, field.name) for field in fields(self)]
        return type(self), (*values[:-1], None)

    def encode(self, batch: Batch) -> Encoded[_Pages]:
        if batch.stored is not None:
            return self._encoded(batch, *_stored_pages(batch.stored, self.flag))
        if batch.data is None:
            pages = _Pages(self.zero_descs(batch), np.empty(0, np.int64), np.empty(0, np.int64), [])
            return Encoded(batch.position, 0, None, pages, batch.size, self.zero_size(batch, 0))
        page_size = self.page_size
        stored = np.flatnonzero(~zero_pages(batch.data, page_size))
        offsets = (stored * page_size).tolist()
        return self._encoded(batch, stored, [batch.data[at : at + page_size] for at in offsets], None)

    def _encoded(
        self, batch: Batch, stored: NDArray[np.int64], pages: Sequence[memoryview], flags: NDArray[np.uint32] | None
    ) -> Encoded[_Pages]:
        """Find equal pages, and compress what is not known to be there.

        Args:
            batch: The batch.
            stored: Which of its pages are not zero.
            pages: Their bytes.
            flags: How those are compressed already, or None where they are not.
        """
        from xxhash import xxh3_128_digest

        key = self.key
        seen: dict[bytes, int] = {}
        which = np.array([seen.setdefault(xxh3_128_digest(page, key), len(seen)) for page in pages], np.int64)
        digests = np.frombuffer(b"".join(seen), np.uint64).reshape(-1, 2)
        known = self.written.find(digests) if self.written is not None else np.zeros(len(digests), np.int64)
        wanted = np.flatnonzero(known == 0)
        # Each distinct page is numbered when it is first seen.
        first = np.flatnonzero(np.diff(np.maximum.accumulate(which), prepend=-1))[wanted]
        if flags is None:
            assert batch.data is not None
            chunks, sizes, flags = self.compressed(batch.data, stored[first])
            taken_size = 0
        else:
            chunks, flags = [pages[i] for i in first.tolist()], flags[first]
            sizes = np.fromiter(map(len, chunks), np.int64, len(chunks))
            taken_size = len(stored) * self.page_size
        # How much of it is written shows when it is placed.
        return Encoded(
            batch.position,
            0,
            None,
            _Pages(self.zero_descs(batch), stored, which, chunks),
            batch.size,
            self.zero_size(batch, len(stored)),
            taken_size,
            _Summary(digests, known, wanted, sizes, flags),
        )

    def extents(self, encoded: Encoded[_Pages], start: int, answer: _Answer | None = None) -> Iterator[Extent | Hole]:
        pages = encoded.table
        descs = pages.descs
        if answer is not None:
            descs, of_each = descs.copy(), answer.places[pages.which]
            descs["offset"][pages.stored] = of_each[:, 0]
            descs["size"][pages.stored] = of_each[:, 1] & _NUMBER
            descs["flags"][pages.stored] = of_each[:, 1] >> np.uint64(32)
        yield Extent(self.descs_at(encoded.position), descs.view(np.uint8).data)
        if answer is not None and len(answer.new):
            yield Extent(start, b"".join([pages.chunks[i] for i in answer.new.tolist()]))


class DedupPlacer(Placer[_Summary, _Answer]):
    """Gives a place to each page that has not been written before.

    Args:
        written: Where what is written is noted.
    """

    shared: ClassVar[bool] = True

    def __init__(self, written: WrittenPages) -> None:
        self._written = written

    def place(self, summary: _Summary, start: int) -> tuple[int, _Answer]:
        wanted, sizes, flags = summary.wanted, summary.sizes, summary.flags
        known = summary.known.copy()
        known[wanted] = self._written.find(summary.digests[wanted])
        there = np.flatnonzero(known)
        places = np.empty((len(known), 2), np.uint64)
        places[there] = self._written.entries(known[there])[:, 2:]
        new = np.flatnonzero(known[wanted] == 0)
        if len(new) < len(wanted):  # others were written meanwhile
            wanted, sizes, flags = wanted[new], sizes[new], flags[new]
        ends = np.cumsum(sizes)
        fresh = np.empty((len(wanted), ENTRY), np.uint64)
        fresh[:, :2] = summary.digests[wanted]
        fresh[:, 2] = start + ends - sizes
        fresh[:, 3] = sizes | flags.astype(np.int64) << 32
        places[wanted] = fresh[:, 2:]
        self._written.add(fresh)
        return int(ends[-1]) if len(ends) else 0, _Answer(places, new)


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

    def encoder(self) -> DedupEncoder:
        return DedupEncoder(*self._encoding(), self._key, self._written)

    def placer(self) -> DedupPlacer:
        return DedupPlacer(self._written)


def _stored_pages(pages: StoredPages, flag: int) -> tuple[NDArray[np.int64], list[memoryview], NDArray[np.uint32]]:
    """Which pages that come from another kdump file are not zero, their bytes there, and their flags."""
    stored = np.flatnonzero(pages.sizes)
    ends = np.cumsum(pages.sizes[stored])
    starts = ends - pages.sizes[stored]
    view = memoryview(pages.payload)
    slices = [view[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    return stored, slices, np.where(pages.compressed[stored], flag, 0).astype(np.uint32)
