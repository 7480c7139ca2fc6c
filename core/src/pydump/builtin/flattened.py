"""Flattened streams: a file cut into records that each say where they belong, for outputs that cannot seek.

Source: makedumpfile.h, struct makedumpfile_header and makedumpfile_data_header; all numbers are big-endian, whatever
the machine. Records may come in any order, and a later one wins over an earlier one at the same place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pydump.errors import FormatError
from pydump.interfaces.backing import Backing
from pydump.interfaces.sink import Extent, Hole, Placement, Sink
from pydump.layout.struct import I64, Bytes16, Layout

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIGNATURE: Final = b"makedumpfile"
TYPE_FLAT_HEADER: Final = 1
VERSION_FLAT_HEADER: Final = 1
#: The header is padded to this many bytes.
HEADER_SIZE: Final = 4096
END_FLAG: Final = -1
#: Bytes of the stream that are read at a time to find the headers of records.
LEAST_WINDOW, MAX_WINDOW = 4096, 1 << 20
#: Up to so many records each is read by itself.
FEW: Final = 8


class MakedumpfileHeader(Layout):
    """What a flattened stream begins with."""

    signature: Bytes16 = SIGNATURE
    type: I64 = TYPE_FLAT_HEADER
    version: I64 = VERSION_FLAT_HEADER


class MakedumpfileDataHeader(Layout):
    """What stands before each record's bytes; (-1, -1) ends the stream."""

    offset: I64 = 0
    buf_size: I64 = 0


END_MARK: Final = MakedumpfileDataHeader(END_FLAG, END_FLAG)


def is_flattened(head: bytes) -> bool:
    """Does a file that begins with ``head`` hold a flattened stream?"""
    return head.startswith(SIGNATURE)


class FlattenedBacking(Backing):
    """The file that a flattened stream describes, readable at any offset without being written out.

    A stream that ends without its end mark, or goes on with something else than a record, holds what came before;
    what lies between its records may then have been in those that are lost.

    Raises:
        FormatError: The header is not a flattened stream's, or no record follows it.
    """

    flattened: ClassVar[bool] = True

    def __init__(self, inner: Backing) -> None:
        import numpy as np

        self.path = inner.path
        self._inner = inner
        header = MakedumpfileHeader.unpack(inner.read(0, MakedumpfileHeader.nbytes()), "big")
        if header.type != TYPE_FLAT_HEADER or header.version != VERSION_FLAT_HEADER:
            raise FormatError(
                self.path,
                f"flattened type {header.type}, version {header.version}: only type 1, version 1 is known",
                offset=16,
            )
        starts, sizes, places, fault = _records(inner)
        if fault and not len(starts):
            raise FormatError(self.path, fault, offset=HEADER_SIZE, hint="the file is truncated or damaged")
        self.warnings = (*inner.warnings, fault) if fault else inner.warnings
        self._whole = not fault
        self.size = int((starts + sizes).max()) if len(starts) else 0
        self._starts, self._ends, self._places = _without_overlaps(starts, starts + sizes, places)
        first = np.append(True, self._starts[1:] != self._ends[:-1])[: len(self._starts)]
        #: What is there, records that touch taken together.
        self._runs = np.stack([self._starts[first], self._ends[np.append(first[1:], True)[: len(first)]]], axis=1)

    def __reduce__(self) -> tuple[Any, ...]:
        return FlattenedBacking, (self._inner,)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        import numpy as np

        self.check(offset, len(buffer))
        end = offset + len(buffer)
        first, last = np.searchsorted(self._ends, offset, "right"), np.searchsorted(self._starts, end)
        starts, ends = self._starts[first:last].clip(offset), self._ends[first:last].clip(max=end)
        places = self._places[first:last] + starts - self._starts[first:last]
        sizes = ends - starts
        if sizes.sum() < len(buffer):  # a gap between records reads as zeros, as it does in the file that -R makes
            buffer[:] = bytes(len(buffer))
        pieces = zip((starts - offset).tolist(), sizes.tolist(), places.tolist(), strict=True)
        low = int(places.min()) if len(places) else 0
        span = int((places + sizes).max()) - low if len(places) else 0
        if len(places) > FEW and span <= 2 * len(buffer) + 64 * len(places):  # small ones, close together: one read
            data = memoryview(bytearray(span))
            self._inner.read_into(low, data)
            for at, size, place in pieces:
                buffer[at : at + size] = data[place - low : place - low + size]
        else:
            for at, size, place in pieces:
                self._inner.read_into(place, buffer[at : at + size])

    def data_ranges(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        import numpy as np

        end = offset + size
        first = np.searchsorted(self._runs[:, 1], offset, "right")
        for start, stop in self._runs[first : np.searchsorted(self._runs[:, 0], end)].tolist():
            yield max(start, offset), min(stop, end)

    def missing(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        if self._whole:
            yield from super().missing(offset, size)
            return
        at, end = offset, offset + size
        for start, stop in self.data_ranges(offset, size):
            if start > at:
                yield at, start
            at = stop
        if at < end:
            yield at, end

    def close(self) -> None:
        self._inner.close()


def _records(inner: Backing) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], str]:
    """Walk the records of a stream.

    Returns:
        Where in the file each belongs, its size, where in the stream its bytes are; and why the walk did not come to
        the end mark, or an empty string.
    """
    import struct
    from array import array

    import numpy as np

    read_header = struct.Struct(">qq").unpack_from
    header_size = MakedumpfileDataHeader.nbytes()
    starts, sizes, places = array("q"), array("q"), array("q")
    at, window, window_at, window_size, n_in_window = HEADER_SIZE, b"", 0, LEAST_WINDOW, 0
    fault = ""
    while True:
        if at + header_size > inner.size:
            fault = f"the flattened stream ends at {inner.size:#x} without its end mark: what came after is lost"
            break
        if at + header_size > window_at + len(window):
            # Headers of small records lie close together, those of large ones far apart.
            window_size = min(window_size * 2, MAX_WINDOW) if n_in_window > FEW else LEAST_WINDOW
            window = inner.read(at, min(window_size, inner.size - at))
            window_at, n_in_window = at, 0
        n_in_window += 1
        offset, size = read_header(window, at - window_at)
        if offset == END_FLAG and size == END_FLAG:
            break
        if offset < 0 or size <= 0 or offset + size >= 1 << 63:
            fault = (
                f"a record of the flattened stream at {at:#x} has offset {offset} and size {size}: what follows is lost"
            )
            break
        at += header_size
        there = min(size, inner.size - at)
        if there:
            starts.append(offset)
            sizes.append(there)
            places.append(at)
        at += size
    found = [np.array(column, np.int64) for column in (starts, sizes, places)]
    return found[0], found[1], found[2], fault


def _without_overlaps(starts: NDArray[Any], ends: NDArray[Any], places: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Records in ascending order, each cut to the part that no later record covers."""
    import numpy as np

    order = np.argsort(starts, kind="stable")
    if len(order) < 2 or (ends[order][:-1] <= starts[order][1:]).all():
        return starts[order], ends[order], places[order]
    # Cut the file at every start and end, and paint the records over the cells in the order they came. A record
    # covers at most as many cells as it has bytes, so this is linear in the size of the stream.
    cuts = np.unique(np.concatenate([starts, ends]))
    owner = np.full(len(cuts) - 1, -1, np.int64)
    first, last = np.searchsorted(cuts, starts), np.searchsorted(cuts, ends)
    for record, (a, b) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        owner[a:b] = record
    used = np.flatnonzero(owner >= 0)
    owners = owner[used]
    return cuts[used], cuts[used + 1], places[owners] + cuts[used] - starts[owners]


class FlattenedSink(Sink):
    """Writes a flattened stream to a sink that need not seek.

    Args:
        inner: Where the stream goes.
    """

    placement: ClassVar[Placement] = "anywhere"

    def __init__(self, inner: Sink) -> None:
        self._inner = inner
        self._at = 0
        self._end = 0
        self._complete = False
        self._append(MakedumpfileHeader().pack("big").ljust(HEADER_SIZE, b"\0"))

    def write(self, extent: Extent | Hole) -> None:
        for one in extent.zeros(self._end) if isinstance(extent, Hole) else (extent,):
            if one.size:
                self._record(one)

    def prepare(self, size: int) -> None:
        if size > self._end:
            self._record(Extent(size - 1, b"\0"))
        self._append(END_MARK.pack("big"))
        self._complete = True
        self._inner.prepare(self._at)

    def commit(self, size: int) -> None:
        if not self._complete:
            self.prepare(size)
        self._inner.commit(self._at)

    def retract(self) -> None:
        self._inner.retract()

    def abort(self) -> None:
        self._inner.abort()

    def _record(self, extent: Extent) -> None:
        self._append(MakedumpfileDataHeader(extent.offset, extent.size).pack("big"))
        self._append(extent.data)
        self._end = max(self._end, extent.offset + extent.size)

    def _append(self, data: bytes | bytearray | memoryview) -> None:
        extent = Extent(self._at, data)
        self._inner.write(extent)
        self._at += extent.size
