"""Bare memory that lies end to end in a file, with a map beside it."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydump.builtin.files import FileBacking
from pydump.errors import FormatError, SourceError
from pydump.interfaces.backing import Backing, recipe_of
from pydump.interfaces.image import Reopen
from pydump.interfaces.pieces import PiecesImage, held_pieces
from pydump.layout.memory_map import MAP_MARK, MAP_SUFFIX, MAX_LINE, MAX_RUNS, parse_map
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges

#: No guest has more RAM.
MAX_RAM: Final = 1 << 47


class MappedImage(PiecesImage):
    """Bare memory, placed by a map.

    Args:
        memory: The file of memory.
        runs: ``(paddr, file offset, size)`` of what it holds.
    """

    def __init__(self, memory: Backing, runs: Sequence[tuple[int, int, int]]) -> None:
        pieces, self._lost = held_pieces(memory, runs)
        ram = Ranges.of((paddr, paddr + size) for paddr, _, size in runs)
        super().__init__(memory, pieces, MemoryMap.of((start, end - start) for start, end in ram))
        self._runs = tuple(runs)
        warnings = [*memory.warnings]
        if ram.size < sum(size for _, _, size in runs):
            warnings.append("runs of the map overlap: where they do, the one that begins first is read")
        if self._lost:
            warnings.append(f"{memory.path} is cut off: {self._lost.size} bytes of guest memory are lost")
        self._warnings = tuple(warnings)

    def guest(self) -> Guest:
        return Guest(self._memory)

    def unreadable(self) -> Ranges:
        return self._lost

    def describe(self) -> tuple[tuple[str, str], ...]:
        count = len(self._runs)
        return (("file", f"{self.path}, {count} run{'' if count == 1 else 's'} of RAM by its map"),)

    def warnings(self) -> tuple[str, ...]:
        return self._warnings

    def reopen(self) -> Reopen | None:
        memory = recipe_of(self._backing)
        return ReopenMapped(memory, self._runs) if memory is not None else None


@dataclass(frozen=True, slots=True)
class ReopenMapped(Reopen):
    """Bare memory, placed by a map.

    Attributes:
        memory: The file of memory as it is pickled.
        runs: ``(paddr, file offset, size)`` of what it holds.
    """

    memory: bytes
    runs: tuple[tuple[int, int, int], ...]

    def open(self) -> MappedImage:
        memory = pickle.loads(self.memory)
        try:
            return MappedImage(memory, self.runs)
        except BaseException:
            memory.close()
            raise


def open_map(path: str) -> MappedImage | None:
    """The memory that a map places; None where ``path`` is not a map.

    Raises:
        FormatError: The map is damaged.
        SourceError: The file of memory is not beside it, or has another name.
    """
    if not path.endswith(MAP_SUFFIX) or not os.path.isfile(path):
        return None
    text = FileBacking.open(path, packings=())
    try:
        if text.read(0, min(len(MAP_MARK), text.size)) != MAP_MARK:
            return None
        if text.size > MAX_LINE * MAX_RUNS:
            raise FormatError(path, f"a memory map of {text.size} bytes")
        runs = believed(path, text.read(0, text.size))
    finally:
        text.close()
    name = path.removesuffix(MAP_SUFFIX)
    if not os.path.exists(name):
        raise SourceError(f"{path} is a memory map, and there is no {name}", hint="put the file of memory beside it")
    memory = FileBacking.open(name, packings=())
    try:
        return MappedImage(memory, runs)
    except BaseException:
        memory.close()
        raise


def believed(path: str, text: bytes) -> list[tuple[int, int, int]]:
    """``(paddr, file offset, size)`` of each run of a map.

    Args:
        path: What to call the map.
        text: Its content.

    Raises:
        FormatError: It is not a map, or states what cannot be.
    """
    try:
        runs = [(paddr, offset, size) for paddr, offset, size in parse_map(text) if size]
    except ValueError as error:
        raise FormatError(path, str(error)) from None
    if not runs:
        raise FormatError(path, "the memory map has no run of RAM")
    if any(paddr + size >= 1 << 63 or offset >= 1 << 63 for paddr, offset, size in runs):
        raise FormatError(path, "a run reaches the end of the address space")
    if sum(size for _, _, size in runs) > MAX_RAM:
        raise FormatError(path, "its runs are larger than any guest")
    return runs
