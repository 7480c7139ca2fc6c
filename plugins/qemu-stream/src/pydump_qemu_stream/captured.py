"""What a capture brought."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from pydump.errors import ReadError
from pydump.interfaces.image import MemoryImage
from pydump.model.guest import Guest
from pydump.model.memory import Ranges


class Readable(Protocol):
    """Something that holds guest memory."""

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``paddr`` on."""
        ...

    def data_ranges(self, paddr: int, size: int) -> Iterator[tuple[int, int]]:
        """``(start, end)`` of what may hold data within the range."""
        ...


class Captured(MemoryImage):
    """Captured memory, and the facts of the same moment. What is open for it is closed with the session.

    Args:
        guest: The facts.
        pieces: ``(start, end, who holds it)`` in paddr of all its memory.
        excluded: What of it was left out; it reads as zeros.
        warnings: What the user should know of the capture, a line each; more may come until the guest is released.
    """

    def __init__(
        self,
        guest: Guest,
        pieces: Iterable[tuple[int, int, Readable]],
        *,
        excluded: Ranges | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        self._guest = guest
        self._excluded = Ranges.empty() if excluded is None else excluded
        self._warnings = warnings
        ordered = sorted(pieces, key=lambda piece: piece[0])
        self._starts = [start for start, _, _ in ordered]
        self._pieces = [(end, holder) for _, end, holder in ordered]

    def guest(self) -> Guest:
        return self._guest

    def excluded(self) -> Ranges:
        return self._excluded

    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        for start, end, holder in self._held(paddr, len(buffer)):
            holder.read_into(start, buffer[start - paddr : end - paddr])

    def data_ranges(self, paddr: int, size: int) -> Iterator[tuple[int, int]]:
        """``(start, end)`` of what may hold data within the range; the rest was never written to."""
        for start, end, holder in self._held(paddr, size):
            yield from holder.data_ranges(start, end - start)

    def _held(self, paddr: int, size: int) -> Iterator[tuple[int, int, Readable]]:
        """``(start, end, who holds it)`` for each part of a range."""
        at, end = paddr, paddr + size
        while at < end:
            i = bisect_right(self._starts, at) - 1
            if i < 0 or at >= self._pieces[i][0]:
                raise ReadError(paddr, size, f"there is no RAM at {at:#x}")
            stop, holder = min(self._pieces[i][0], end), self._pieces[i][1]
            yield at, stop, holder
            at = stop
