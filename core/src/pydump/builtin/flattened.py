"""Flattened streams: a file cut into records that each say where they belong, for outputs that cannot seek.

Source: makedumpfile.h, struct makedumpfile_header and makedumpfile_data_header; all numbers are big-endian, whatever
the machine. Records may come in any order, and a later one wins over an earlier one at the same place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from pydump.errors import FormatError, UnsupportedError
from pydump.interfaces.backing import Backing
from pydump.interfaces.sink import Extent, Hole, Sink
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

    Raises:
        FormatError: The stream is damaged, or ends before its end mark.
    """

    flattened: ClassVar[bool] = True

    def __init__(self, inner: Backing) -> None:
        self.path = inner.path
        self._inner = inner
        header = MakedumpfileHeader.unpack(inner.read(0, MakedumpfileHeader.nbytes()), "big")
        if header.type != TYPE_FLAT_HEADER or header.version != VERSION_FLAT_HEADER:
            raise FormatError(
                self.path,
                f"flattened type {header.type}, version {header.version}: only type 1, version 1 is known",
                offset=16,
            )
        starts, sizes, places = self._scan()
        self.size = int((starts + sizes).max()) if len(starts) else 0
        self._starts, self._ends, self._places = _without_overlaps(starts, starts + sizes, places)

    def _scan(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Walk the records: where each belongs, its size, and where its bytes are."""
        from array import array

        import numpy as np

        inner, at = self._inner, HEADER_SIZE
        head = bytearray(MakedumpfileDataHeader.nbytes())
        view = memoryview(head)
        starts, sizes, places = array("q"), array("q"), array("q")
        while True:
            if at + len(head) > inner.size:
                raise FormatError(self.path, "the flattened stream ends without its end mark", offset=at)
            inner.read_into(at, view)
            record = MakedumpfileDataHeader.unpack(head, "big")
            at += len(head)
            if record == END_MARK:
                break
            if record.offset < 0 or record.buf_size <= 0 or record.offset + record.buf_size >= 1 << 63:
                raise FormatError(
                    self.path, f"record with offset {record.offset} and size {record.buf_size}", offset=at - len(head)
                )
            inner.check(at, record.buf_size)
            starts.append(record.offset)
            sizes.append(record.buf_size)
            places.append(at)
            at += record.buf_size
        return (
            np.frombuffer(starts, np.int64) if starts else np.empty(0, np.int64),
            np.frombuffer(sizes, np.int64) if sizes else np.empty(0, np.int64),
            np.frombuffer(places, np.int64) if places else np.empty(0, np.int64),
        )

    def read_into(self, offset: int, buffer: memoryview) -> None:
        import numpy as np

        self.check(offset, len(buffer))
        end = offset + len(buffer)
        i = int(np.searchsorted(self._ends, offset, side="right"))
        at = offset
        while at < end:
            if i == len(self._starts) or self._starts[i] >= end:
                start = stop = end
            else:
                start, stop = max(int(self._starts[i]), at), min(int(self._ends[i]), end)
            if start > at:  # a gap between records reads as zeros, as it does in the file that -R makes
                buffer[at - offset : start - offset] = bytes(start - at)
            if stop > start:
                place = int(self._places[i]) + start - int(self._starts[i])
                self._inner.read_into(place, buffer[start - offset : stop - offset])
            at = stop
            i += 1

    def data_ranges(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        import numpy as np

        end = offset + size
        i = int(np.searchsorted(self._ends, offset, side="right"))
        while i < len(self._starts) and self._starts[i] < end:
            yield max(int(self._starts[i]), offset), min(int(self._ends[i]), end)
            i += 1

    def close(self) -> None:
        self._inner.close()


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

    name: ClassVar[str] = "flattened"
    seekable: ClassVar[bool] = True

    def __init__(self, inner: Sink) -> None:
        self._inner = inner
        self._at = 0
        self._end = 0
        self._append(MakedumpfileHeader().pack("big").ljust(HEADER_SIZE, b"\0"))

    @classmethod
    def open(cls, argument: str, *, force: bool = False) -> Self:
        raise UnsupportedError("a flattened stream is chosen with --flatten, not by name")

    def write(self, extent: Extent | Hole) -> None:
        if isinstance(extent, Hole) or not extent.size:
            return
        self._record(extent)

    def commit(self, size: int) -> None:
        if size > self._end:
            self._record(Extent(size - 1, b"\0"))
        self._append(END_MARK.pack("big"))
        self._inner.commit(self._at)

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
