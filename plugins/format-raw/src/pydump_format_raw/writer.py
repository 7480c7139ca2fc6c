"""Writes bare memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Final

from pydump.interfaces.sink import Extent, Hole
from pydump.interfaces.writer import Batch, Encoded, Encoder, Writer
from pydump.layout.memory_map import MAP_HEAD, MAP_SUFFIX
from pydump.model.plan import Plan

#: Bytes of holes between RAM that are worth a word.
LARGE_HOLES: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class RawEncoder(Encoder[None]):
    """Writes bytes as they are.

    Attributes:
        begins: Where in the stored stream each run begins.
        places: Where in the file each run begins.
        ends: Where in the stored stream each run ends.
    """

    begins: tuple[int, ...]
    places: tuple[int, ...]
    ends: tuple[int, ...]

    def encode(self, batch: Batch) -> Encoded[None]:
        zero_size = batch.size if batch.data is None else 0
        return Encoded(batch.position, 0, batch.data, None, batch.size, zero_size)

    def extents(self, encoded: Encoded[None], start: int, answer: None = None) -> Iterator[Extent | Hole]:
        at, end = encoded.position, encoded.position + encoded.size
        data = None if encoded.payload is None else memoryview(encoded.payload)
        which = bisect_right(self.begins, at) - 1
        while at < end:
            stop = min(end, self.ends[which])
            offset = self.places[which] + at - self.begins[which]
            if data is None:
                yield Hole(offset, stop - at)
            else:
                yield Extent(offset, data[at - encoded.position : stop - encoded.position])
            at = stop
            which += 1


class RawWriter(Writer):
    """Each byte at its paddr, or with ``packed`` end to end. What is not stored is zero, or with ``packed`` nowhere."""

    sequential: ClassVar[bool] = True

    def __init__(self, plan: Plan) -> None:
        self.unit = 1
        self.stored = plan.readable()
        self.start = 0
        self._guest = plan.guest
        self._packed: bool = plan.options.packed
        self._runs = tuple(self.stored)
        sizes = [end - start for start, end in self._runs]
        begins = tuple(accumulate(sizes, initial=0))
        places = begins[:-1] if self._packed else tuple(start for start, _ in self._runs)
        self._encoder = RawEncoder(begins[:-1], places, begins[1:])
        # A hole at the end is part of the file, so that it is as long as the guest's memory reaches.
        self.size_limit = self.stored.size if self._packed else plan.guest.memory.end

    def headers(self) -> Iterator[Extent | Hole]:
        return iter(())

    def encoder(self) -> RawEncoder:
        return self._encoder

    def size(self, end: int) -> int:
        return self.size_limit

    def remarks(self, output: str) -> tuple[str, ...]:
        arch = f" --arch {self._guest.arch}" if self._guest.arch else ""
        if self._packed:
            return (f"read it as raw:{output}{MAP_SUFFIX}{arch}",)
        how = f"read it as 'raw:{output}[0:]@0'{arch}"
        holes = self.size_limit - self._guest.memory.size
        if holes < LARGE_HOLES:
            return (how,)
        return how, f"{holes >> 30} GiB of it are not RAM and read as zeros: --raw-packed leaves them out"

    def beside(self) -> Mapping[str, bytes]:
        if not self._packed:
            return {}
        rows = zip(self._runs, self._encoder.places, strict=True)
        lines = (f"{start:#x} {end - start:#x} {place:#x}\n" for (start, end), place in rows)
        return {MAP_SUFFIX: MAP_HEAD + "".join(lines).encode()}
