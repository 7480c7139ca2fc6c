"""Where in a file each page of a migration stream is: one pass makes it, and then any page can be read.

What is kept are runs of pages, 16 bytes each, so it takes memory in proportion to the file.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from pydump_qemu_stream.reader import damaged
from pydump_qemu_stream.records import RAM_SAVE_FLAG_COMPRESS_PAGE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pydump_qemu_stream.ram import Block

#: What the highest bits of a run's place say of it. The rest is a position in the file, the byte of pages that are
#: filled with one, or the number of a chain of deltas.
KIND_SHIFT: Final = 60
PLAIN, FILLED, ZLIB, DELTA = range(4)
#: No page of this number is known.
ABSENT: Final = 4
VALUE: Final = (1 << KIND_SHIFT) - 1
#: Runs of one block in one index: 2 GiB of them.
MAX_RUNS: Final = 1 << 27
#: Pages of a region in which pages that came more than once are sorted out.
REGION: Final = 1 << 18
#: Deltas of one page. QEMU sends the whole page again when its cache drops it.
MAX_DELTAS: Final = 1 << 12


class Runs:
    """The pages of one block, as runs in ascending order.

    Attributes:
        first: The first page of each run, shape (n,), int64.
        count: Its pages, shape (n,), int64.
        place: Where they are, shape (n,), int64: a kind and a value, see :data:`KIND_SHIFT`.
        chains: Of each page of kind DELTA: the place of its last whole version, and where in the file its deltas begin.
        stride: Bytes from a plain page to the next one of its run.
    """

    def __init__(
        self,
        first: NDArray[np.int64],
        count: NDArray[np.int64],
        place: NDArray[np.int64],
        chains: list[list[int]],
        stride: int,
    ) -> None:
        self.first = first
        self.count = count
        self.place = place
        self.chains = chains
        self.stride = stride

    def places(self, page: int, count: int) -> NDArray[np.int64]:
        """The place of each of ``count`` pages from ``page`` on; of kind ABSENT for those that never came."""
        import numpy as np

        places = np.full(count, ABSENT << KIND_SHIFT, np.int64)
        a = int(np.searchsorted(self.first, page, side="right")) - 1
        b = int(np.searchsorted(self.first, page + count, side="left"))
        a = max(a, 0)
        first, n, place = self.first[a:b], self.count[a:b], self.place[a:b]
        start = np.maximum(first, page)
        n = np.maximum(np.minimum(first + n, page + count) - start, 0)
        total = int(n.sum())
        if not total:
            return places
        # Every page's number within what its run has of the range.
        within = np.arange(total) - np.repeat(np.cumsum(n) - n, n)
        step = np.where(place >> KIND_SHIFT == PLAIN, self.stride, 0)
        value = place + (start - first) * step
        places[np.repeat(start - page, n) + within] = np.repeat(value, n) + within * np.repeat(step, n)
        return places

    def spans(self, *, data: bool) -> NDArray[np.int64]:
        """The pages that came, as rows of a first page and one past the last; with ``data`` but those of zeros."""
        import numpy as np

        first, count = self.first, self.count
        if data:
            kept = self.place != FILLED << KIND_SHIFT
            first, count = first[kept], count[kept]
        rows = np.stack([first, first + count], axis=1)
        if not len(rows):
            return rows
        opens = np.concatenate([[True], rows[1:, 0] != rows[:-1, 1]])
        closes = np.concatenate([opens[1:], [True]])
        return np.stack([rows[opens, 0], rows[closes, 1]], axis=1)


class Index:
    """Takes the RAM of a stream and keeps where its pages are.

    Attributes:
        list: All blocks, in the stream's order; empty before the stream has said.
    """

    def __init__(self) -> None:
        self.list: list[Block] = []
        self._found: dict[str, array[int]] = {}

    def blocks(self, blocks: list[Block]) -> None:
        self.list = blocks
        self._found = {block.name: array("Q") for block in blocks}

    def begin(self) -> None:
        pass

    def part_read(self) -> None:
        pass

    def pages(self, block: Block, page: int, content: NDArray[np.uint8], position: int) -> None:
        self._add(block, page, len(content), position)

    def filled(self, block: Block, page: int, count: int, byte: int) -> None:
        self._add(block, page, count, FILLED << KIND_SHIFT | byte)

    def packed(self, block: Block, page: int, kind: int, content: bytes, position: int) -> None:
        # The bytes before the position say how many there are.
        packed = ZLIB if kind == RAM_SAVE_FLAG_COMPRESS_PAGE else DELTA
        self._add(block, page, 1, packed << KIND_SHIFT | position)

    def _add(self, block: Block, page: int, count: int, place: int) -> None:
        found = self._found[block.name]
        if block.mapped is not None or len(found) > 2 * MAX_RUNS:
            raise damaged(f"block {block.name!r} has too many pages")
        found.append(page << 32 | count)
        found.append(place)

    def runs(self, block: Block) -> Runs:
        """The pages of a block; the last version of those that came more than once."""
        import numpy as np

        raw = np.frombuffer(self._found.pop(block.name, array("Q")), np.uint64).reshape(-1, 2)
        first = (raw[:, 0] >> np.uint64(32)).astype(np.int64)
        count = (raw[:, 0] & np.uint64(0xFFFFFFFF)).astype(np.int64)
        place = raw[:, 1].astype(np.int64)
        stride = block.page_size + 8
        chains: list[list[int]] = []
        if bool((first[1:] < first[:-1] + count[:-1]).any()) or bool((place >> KIND_SHIFT == DELTA).any()):
            first, count, place = _last_versions(first, count, place, stride, chains)
        first, count, place = _joined(first, count, place, stride)
        return Runs(first, count, place, chains, stride)


def _last_versions(
    first: NDArray[np.int64], count: NDArray[np.int64], place: NDArray[np.int64], stride: int, chains: list[list[int]]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Runs that are ascending and do not overlap, of runs in the order in which they came."""
    import numpy as np

    regions = (first + count - 1) // REGION - first // REGION + 1
    of = np.repeat(np.arange(len(first)), regions)
    region = first[of] // REGION + np.arange(len(of)) - np.repeat(np.cumsum(regions) - regions, regions)
    order = np.argsort(region, kind="stable")
    bounds = np.flatnonzero(np.diff(region[order], prepend=-1, append=-1))
    rows = []
    for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        begin = int(region[order[a]]) * REGION
        pages = np.full(REGION, ABSENT << KIND_SHIFT, np.int64)
        which = of[order[a:b]]
        for start, n, where in zip(first[which].tolist(), count[which].tolist(), place[which].tolist(), strict=True):
            at, end = max(start, begin) - begin, min(start + n, begin + REGION) - begin
            kind = where >> KIND_SHIFT
            if kind == DELTA:
                pages[at] = _chain(int(pages[at]), where & VALUE, chains)
            elif kind == PLAIN:
                skipped = begin + at - start
                pages[at:end] = np.arange(where + skipped * stride, where + (skipped + end - at) * stride, stride)
            else:
                pages[at:end] = where
        there = np.flatnonzero(pages >> KIND_SHIFT != ABSENT)
        rows.append(np.stack(_joined(begin + there, np.ones(len(there), np.int64), pages[there], stride)))
    all_rows = np.concatenate(rows, axis=1)
    return all_rows[0], all_rows[1], all_rows[2]


def _chain(before: int, delta: int, chains: list[list[int]]) -> int:
    """The place of a page whose version ``before`` is followed by a delta."""
    if before >> KIND_SHIFT == DELTA:
        chain = chains[before & VALUE]
        if len(chain) > MAX_DELTAS:
            raise damaged(f"a page has more than {MAX_DELTAS} deltas")
        chain.append(delta)
        return before
    chains.append([before, delta])
    return DELTA << KIND_SHIFT | len(chains) - 1


def _joined(
    first: NDArray[np.int64], count: NDArray[np.int64], place: NDArray[np.int64], stride: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Ascending runs, neighbours that continue each other made one."""
    import numpy as np

    if len(first) < 2:
        return first, count, place
    kind = place >> KIND_SHIFT
    expected = np.where(kind == PLAIN, place + count * stride, place)
    alike = (kind == PLAIN) | (kind == FILLED)
    opens = np.ones(len(first), np.bool_)
    opens[1:] = ~(alike[:-1] & (first[1:] == first[:-1] + count[:-1]) & (place[1:] == expected[:-1]))
    starts = np.flatnonzero(opens)
    return first[starts], np.add.reduceat(count, starts), place[starts]
