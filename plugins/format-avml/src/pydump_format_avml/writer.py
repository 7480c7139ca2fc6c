"""Writes AVML memory images."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple, TypeAlias

from pydump.errors import UnsupportedError
from pydump.interfaces.sink import Extent, Hole
from pydump.interfaces.writer import Batch, Encoded, Encoder, Placer, Writer
from pydump.layout.lime import AVML_MAGIC, AVML_VERSION, RangeHeader
from pydump.model.plan import Plan
from pydump_format_avml.framing import CRC, FRAME_HEADER, MAX_DATA, STREAM_IDENTIFIER, TRAILER

#: Bytes in front of the frames of a block.
HEAD: Final = RangeHeader.nbytes() + len(STREAM_IDENTIFIER)
#: A batch that is known to be zero has at most this many bytes: 20 times what is made of it.
MAX_HOLE: Final = 16 << 20


class Part(NamedTuple):
    """What a batch has of one run of memory.

    Attributes:
        paddr: Where it begins.
        size: Bytes.
        stream_size: Bytes of its frames.
        ends_run: Whether RAM that is stored ends here.
    """

    paddr: int
    size: int
    stream_size: int
    ends_run: bool


#: Headers, identifiers and trailers with their offsets, and the offset of each part's frames.
Answer: TypeAlias = tuple[tuple[tuple[int, bytes], ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class AvmlEncoder(Encoder[tuple[Part, ...]]):
    """Compresses memory into Snappy frames.

    Attributes:
        runs: ``(start, end)`` in paddr of what is stored.
        begins: Where in the stored stream each run begins.
    """

    runs: tuple[tuple[int, int], ...]
    begins: tuple[int, ...]

    def encode(self, batch: Batch) -> Encoded[tuple[Part, ...]]:
        parts: list[Part] = []
        streams: list[memoryview | bytes] = []
        at, end = batch.position, batch.position + batch.size
        i = bisect_right(self.begins, at) - 1
        while at < end:
            start, stop = self.runs[i]
            paddr = start + at - self.begins[i]
            size = min(stop - paddr, end - at)
            offset = at - batch.position
            stream = frames(batch.data[offset : offset + size]) if batch.data is not None else zero_frames(size)
            parts.append(Part(paddr, size, len(stream), paddr + size == stop))
            streams.append(stream)
            at += size
            i += 1
        payload = streams[0] if len(streams) == 1 else b"".join(streams)
        zero_size = batch.size if batch.data is None else 0
        return Encoded(batch.position, 0, payload, tuple(parts), batch.size, zero_size, summary=tuple(parts))

    def extents(
        self, encoded: Encoded[tuple[Part, ...]], start: int, answer: Answer | None = None
    ) -> Iterator[Extent | Hole]:
        assert answer is not None and encoded.payload is not None
        between, offsets = answer
        payload, at = memoryview(encoded.payload), 0
        for part, offset in zip(encoded.table, offsets, strict=True):
            yield Extent(offset, payload[at : at + part.stream_size])
            at += part.stream_size
        for offset, data in between:
            yield Extent(offset, data)

    def max_payload(self, size: int) -> int:
        """Memory that does not compress, in parts of a frame each."""
        return size + (size // MAX_DATA + 1) * (FRAME_HEADER + CRC) + len(self.runs) * (FRAME_HEADER + CRC)


class AvmlPlacer(Placer[tuple[Part, ...], Answer]):
    """Makes blocks of the parts of batches.

    Volatility 3 reads as many bytes of a block's stream as the block has of memory, less one, and never ends where the
    stream is longer. So a part that does not compress shares its block with a neighbour that does.
    """

    def __init__(self) -> None:
        self._header_at = 0
        self._paddr = 0
        self._size = 0
        self._stream_size = 0
        self._is_open = False

    def place(self, summary: tuple[Part, ...], start: int) -> tuple[int, Answer]:
        between: list[tuple[int, bytes]] = []
        offsets: list[int] = []
        at = start
        for part in summary:
            ends_well = self._is_open and shrinks(self._size, self._stream_size)
            if ends_well and shrinks(part.size, part.stream_size):
                at = self._close(at, between)
            if not self._is_open:
                self._header_at, self._paddr, self._size, self._stream_size = at, part.paddr, 0, 0
                self._is_open = True
                between.append((at + RangeHeader.nbytes(), STREAM_IDENTIFIER))
                at += HEAD
            offsets.append(at)
            at += part.stream_size
            self._size += part.size
            self._stream_size += part.stream_size
            if part.ends_run:
                at = self._close(at, between)
        return at - start, (tuple(between), tuple(offsets))

    def _close(self, at: int, between: list[tuple[int, bytes]]) -> int:
        """End the open block at offset ``at``; returns where the next one may begin.

        Raises:
            UnsupportedError: Volatility 3 would not come to the end of it.
        """
        end = self._paddr + self._size
        if not shrinks(self._size, self._stream_size):
            raise UnsupportedError(
                f"memory at {self._paddr:#x}..{end:#x} does not compress, and Volatility 3 never ends on such a block",
                hint="write --format lime",
            )
        header = RangeHeader(magic=AVML_MAGIC, version=AVML_VERSION, s_addr=self._paddr, e_addr=end - 1)
        between.append((self._header_at, header.pack("little")))
        between.append((at, (len(STREAM_IDENTIFIER) + self._stream_size).to_bytes(TRAILER, "little")))
        self._is_open = False
        return at + TRAILER


class AvmlWriter(Writer):
    """Blocks of Snappy frames, in ascending order. What is not stored is in no block."""

    max_hole: ClassVar[int] = MAX_HOLE

    def __init__(self, plan: Plan) -> None:
        self.unit = MAX_DATA
        self.stored = plan.readable()
        self.start = 0
        self._runs = tuple(self.stored)
        # A part has a frame or more, and begins where a run, a batch or a hole does.
        n_frames = 2 * sum(-(-(end - start) // MAX_DATA) for start, end in self._runs) + len(self._runs)
        self.size_limit = self.stored.size + n_frames * (FRAME_HEADER + CRC + HEAD + TRAILER)

    def headers(self) -> Iterator[Extent | Hole]:
        return iter(())

    def encoder(self) -> AvmlEncoder:
        begins, at = [], 0
        for start, end in self._runs:
            begins.append(at)
            at += end - start
        return AvmlEncoder(self._runs, tuple(begins))

    def placer(self) -> AvmlPlacer:
        return AvmlPlacer()


def shrinks(size: int, stream_size: int) -> bool:
    """Whether the whole stream of a block lies within the bytes that Volatility 3 reads of it.

    Args:
        size: Bytes of memory in the block.
        stream_size: Bytes of its frames.
    """
    return len(STREAM_IDENTIFIER) + stream_size < size


def frames(data: memoryview) -> memoryview:
    """The frames that hold ``data``, without the stream identifier."""
    import cramjam

    return memoryview(cramjam.snappy.compress(data))[len(STREAM_IDENTIFIER) :]


def zero_frames(size: int) -> bytes:
    """The frames that hold ``size`` zeros."""
    whole, rest = divmod(size, MAX_DATA)
    full = bytes(frames(memoryview(bytes(MAX_DATA)))) if whole else b""
    return full * whole + (bytes(frames(memoryview(bytes(rest)))) if rest else b"")
