"""Raw memory: files that hold RAM and nothing else, and memory that is already in this process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar, Self

from pydump.builtin.files import FileBacking
from pydump.errors import PlanError, ReadError, SourceError
from pydump.interfaces.backing import Backing
from pydump.interfaces.source import Source
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, RamBlock

#: More digits than any address has, and so few that they can be shown.
MAX_DIGITS = 40
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_number(text: str) -> int:
    """A number as people write addresses and sizes: ``0x40000000``, ``1048576``, ``512M``.

    Raises:
        PlanError: It is none.
    """
    match = re.fullmatch(
        rf"(0x[0-9a-f]{{1,{MAX_DIGITS}}}|[0-9]{{1,{MAX_DIGITS}}})([kmgt]?)(i?b)?", text.strip().lower()
    )
    if not match:
        shown = text if len(text) <= MAX_DIGITS else f"{text[:MAX_DIGITS]}…"
        raise PlanError(f"{shown!r} is no address or size", hint="write 0x40000000, 1048576 or 512M")
    return int(match[1], 0 if match[1].startswith("0x") else 10) * _UNITS[match[2]]


class RawSource(Source):
    """Files of bare RAM: ``PATH@PADDR[,PATH@PADDR…]``; without ``@PADDR`` the file begins at 0."""

    name: ClassVar[str] = "raw"

    def __init__(self, files: list[tuple[int, Backing]]) -> None:
        self._files = sorted(files, key=lambda item: item[0])
        try:
            self._memory = MemoryMap.of((paddr, backing.size) for paddr, backing in self._files)
        except ValueError as error:
            raise PlanError(f"raw: {error}", hint="give each file its own place: raw:low.bin@0,high.bin@4G") from None
        if not self._memory:
            raise SourceError("raw: the files are empty")
        self._at = {paddr: backing for paddr, backing in self._files if backing.size}

    @classmethod
    def open(cls, argument: str, options: Any = None) -> Self:
        files: list[tuple[int, Backing]] = []
        for part in argument.split(","):
            path, at, paddr = part.rpartition("@")
            if not at:
                path, paddr = part, "0"
            if not path:
                raise PlanError(f"raw:{argument} names no file", hint="write raw:PATH@PADDR")
            files.append((parse_number(paddr), FileBacking.open(path)))
        return cls(files)

    def guest(self) -> Guest:
        return Guest(self._memory)

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        for block, start, end in _pieces(self._memory, paddr, len(buffer)):
            self._at[block.paddr].read_into(start - block.paddr, buffer[start - paddr : end - paddr])

    def data_ranges(self, paddr: int, size: int) -> Iterator[tuple[int, int]]:
        """What the files' holes leave over."""
        for block, start, end in _pieces(self._memory, paddr, size):
            for a, b in self._at[block.paddr].data_ranges(start - block.paddr, end - start):
                yield block.paddr + a, block.paddr + b

    def describe(self) -> tuple[tuple[str, str], ...]:
        return tuple(("file", f"{backing.path} at {paddr:#x}") for paddr, backing in self._files)

    def close(self) -> None:
        for _, backing in self._files:
            backing.close()


class MemorySource(Source):
    """Guest memory that this process already holds.

    Args:
        guest: The facts; ``guest.memory`` is ignored and made from ``contents``.
        contents: Guest-physical address to the bytes there.
    """

    name: ClassVar[str] = "memory"

    def __init__(self, guest: Guest, contents: dict[int, bytes | bytearray | memoryview]) -> None:
        from dataclasses import replace

        self._contents = dict(contents)
        self._guest = replace(guest, memory=MemoryMap.of((paddr, len(data)) for paddr, data in contents.items()))

    @classmethod
    def open(cls, argument: str, options: Any = None) -> Self:
        raise PlanError("an in-memory source is made in Python: pydump.MemorySource(guest, {paddr: bytes})")

    def guest(self) -> Guest:
        return self._guest

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        for block, start, end in _pieces(self._guest.memory, paddr, len(buffer)):
            data = memoryview(self._contents[block.paddr])
            buffer[start - paddr : end - paddr] = data[start - block.paddr : end - block.paddr]


def _pieces(memory: MemoryMap, paddr: int, size: int) -> Iterator[tuple[RamBlock, int, int]]:
    """The blocks that hold a range, each with the part ``[start, end)`` it holds.

    Raises:
        ReadError: Some of the range is no RAM.
    """
    at, end = paddr, paddr + size
    while at < end:
        block = memory.find(at)
        if block is None:
            raise ReadError(paddr, size, f"there is no RAM at {at:#x}")
        stop = min(block.end, end)
        yield block, at, stop
        at = stop
