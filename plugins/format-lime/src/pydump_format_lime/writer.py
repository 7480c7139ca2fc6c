"""Writes LiME memory images."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Final

from pydump.errors import UnsupportedError
from pydump.interfaces.sink import Extent, Hole
from pydump.interfaces.writer import Batch, Encoded, Encoder, Writer
from pydump.layout.lime import RangeHeader
from pydump.model.plan import Plan

#: As many as the reader reads.
MAX_RANGES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class LimeEncoder(Encoder[None]):
    """Writes a header where a range begins, and bytes as they are.

    Attributes:
        headers: Of each range.
        begins: Where in the stored stream each range begins, and last where the stream ends.
    """

    headers: list[bytes]
    begins: list[int]

    def encode(self, batch: Batch) -> Encoded[None]:
        zero_size = batch.size if batch.data is None else 0
        return Encoded(batch.position, 0, batch.data, None, batch.size, zero_size)

    def extents(self, encoded: Encoded[None], start: int, answer: None = None) -> Iterator[Extent | Hole]:
        at, end = encoded.position, encoded.position + encoded.size
        data = None if encoded.payload is None else memoryview(encoded.payload)
        which = bisect_left(self.begins, at)
        while at < end:
            # Before the range that begins here, ``which`` headers were written.
            offset = at + which * RangeHeader.nbytes()
            if at == self.begins[which]:
                yield Extent(offset, self.headers[which])
                which += 1
                offset += RangeHeader.nbytes()
            stop = min(end, self.begins[which])
            if data is None:
                yield Hole(offset, stop - at)
            else:
                yield Extent(offset, data[at - encoded.position : stop - encoded.position])
            at = stop


class LimeWriter(Writer):
    """Ascending ranges with nothing between them, as Volatility 3 wants them. What is not stored is in no range."""

    sequential: ClassVar[bool] = True

    def __init__(self, plan: Plan) -> None:
        self.unit = 1
        self.stored = plan.readable()
        self.start = 0
        ranges = list(self.stored)
        if len(ranges) > MAX_RANGES:
            raise UnsupportedError(f"memory is in {len(ranges)} ranges, and LiME is read with {MAX_RANGES} at most")
        self._headers = [RangeHeader(s_addr=start, e_addr=end - 1).pack("little") for start, end in ranges]
        self._begins = list(accumulate((end - start for start, end in ranges), initial=0))
        self.size_limit = self.stored.size + len(ranges) * RangeHeader.nbytes()

    def headers(self) -> Iterator[Extent | Hole]:
        return iter(())

    def encoder(self) -> LimeEncoder:
        return LimeEncoder(self._headers, self._begins)

    def size(self, end: int) -> int:
        return self.size_limit
