"""Raw memory: files that hold RAM and nothing else, and memory that is already in this process."""

from __future__ import annotations

import copyreg
import os
import pickle
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple

from pydump.builtin.files import FileBacking
from pydump.builtin.flattened import is_flattened
from pydump.builtin.memory_map import open_map
from pydump.builtin.spool import HEAD_SIZE, PACKINGS
from pydump.catalog import known_file
from pydump.errors import PlanError, ReadError, SourceError
from pydump.interfaces.arch import SMALLEST_PAGE
from pydump.interfaces.backing import Backing, recipe_of
from pydump.interfaces.image import MemoryImage, Reopen
from pydump.interfaces.source import Source
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, RamBlock
from pydump.options import parse_number

#: A path and the part of the file that is RAM.
PART: Final = re.compile(r"(?P<path>.*)\[(?P<offset>[^][:]*):(?P<size>[^][:]*)\]", re.DOTALL)
#: What is meant to be the part of a file: it begins or ends with a bracket, behind the last slash.
BRACKET: Final = re.compile(r"\[[^/]*\Z|\]\Z")
#: The right form of a source of bare memory.
FORM: Final = "write raw:PATH@PADDR or raw:PATH[OFFSET:SIZE]@PADDR, as raw:ram[0:3G]@0,ram[3G:]@4G"


class _Piece(NamedTuple):
    """A part of a file and the place of its RAM.

    Attributes:
        paddr: Where it begins in guest memory.
        backing: The file.
        offset: Where it begins in the file.
        size: Bytes.
        kind: What the whole file seems to be instead of RAM, as "an elf file"; else empty.
    """

    paddr: int
    backing: Backing
    offset: int
    size: int
    kind: str = ""


class RawSource(Source):
    """Files of bare RAM: ``PATH[OFFSET:SIZE]@PADDR``, as many as there are, separated by commas.

    Without ``@PADDR`` the RAM begins at 0, without ``[OFFSET:SIZE]`` it is the whole file. Where neither a part nor an
    address but 0 is named, the guest is not placed: a PC's memory may lie in two parts. ``FILE.map`` alone is a map
    of ``FILE``.
    """

    name: ClassVar[str] = "raw"

    @classmethod
    def open(cls, argument: str, options: Any = None) -> MemoryImage:
        mapped = open_map(argument)
        if mapped is not None:
            return mapped
        parts = [_Named.parse(text, argument) for text in argument.split(",")]
        pieces: list[_Piece] = []
        try:
            for part in parts:
                pieces.append(part.open())
            return RawImage(pieces, placed=any(part.stated or part.paddr for part in parts))
        except BaseException:
            for piece in pieces:
                piece.backing.close()
            raise


class RawImage(MemoryImage):
    """Files of bare RAM, open."""

    def __init__(self, pieces: Sequence[_Piece], *, placed: bool = True) -> None:
        self._pieces = sorted((piece for piece in pieces if piece.size), key=lambda piece: piece.paddr)
        self._files = list({id(piece.backing): piece.backing for piece in pieces}.values())
        self._placed = placed
        try:
            self._memory = MemoryMap.of((piece.paddr, piece.size) for piece in self._pieces)
        except ValueError as error:
            raise PlanError(f"raw: {error}", hint="give each file its own place: raw:low.bin@0,high.bin@4G") from None
        if not self._memory:
            raise SourceError("raw: the files are empty")
        self._at = {piece.paddr: piece for piece in self._pieces}

    def guest(self) -> Guest:
        return Guest(self._memory, placed=self._placed)

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        for block, start, end in _blocks(self._memory, paddr, len(buffer)):
            piece = self._at[block.paddr]
            piece.backing.read_into(piece.offset + start - block.paddr, buffer[start - paddr : end - paddr])

    def data_ranges(self, paddr: int, size: int) -> Iterator[tuple[int, int]]:
        """What the files' holes leave over."""
        for block, start, end in _blocks(self._memory, paddr, size):
            piece = self._at[block.paddr]
            shift = piece.offset - block.paddr
            for a, b in piece.backing.data_ranges(start + shift, end - start):
                yield a - shift, b - shift

    def describe(self) -> tuple[tuple[str, str], ...]:
        return tuple(("file", f"{piece.backing.path}{_part(piece)} at {piece.paddr:#x}") for piece in self._pieces)

    def warnings(self) -> tuple[str, ...]:
        odd = [piece for piece in self._pieces if piece.paddr % SMALLEST_PAGE]
        return (
            *(
                f"{piece.backing.path} begins like {piece.kind}, and its bytes are taken as RAM: leave raw: out to "
                f"read what it holds, or write raw:{piece.backing.path}[0:]@{piece.paddr:#x} where they are RAM"
                for piece in self._pieces
                if piece.kind
            ),
            *(f"{backing.path}: {line}" for backing in self._files for line in backing.warnings),
            *(
                f"{piece.backing.path} is placed at {piece.paddr:#x}, which is not a multiple of {SMALLEST_PAGE:#x}: "
                "RAM begins at a page; is the address right?"
                for piece in odd
            ),
        )

    def reopen(self) -> Reopen | None:
        files = [recipe_of(file) for file in self._files]
        places = [(p.paddr, self._files.index(p.backing), p.offset, p.size) for p in self._pieces]
        named = tuple(file for file in files if file is not None)
        return ReopenRaw(named, tuple(places), self._placed) if len(named) == len(files) else None

    def close(self) -> None:
        for backing in self._files:
            backing.close()


@dataclass(frozen=True, slots=True)
class ReopenRaw(Reopen):
    """Files of bare RAM.

    Attributes:
        files: Each as it is pickled.
        pieces: ``(paddr, index into files, offset in the file, size)``.
        placed: Whether somebody says where RAM lies.
    """

    files: tuple[bytes, ...]
    pieces: tuple[tuple[int, int, int, int], ...]
    placed: bool

    def open(self) -> RawImage:
        files: list[Backing] = []
        try:
            files += map(pickle.loads, self.files)
            pieces = [_Piece(paddr, files[index], offset, size) for paddr, index, offset, size in self.pieces]
            return RawImage(pieces, placed=self.placed)
        except BaseException:
            for file in files:
                file.close()
            raise


class _Named(NamedTuple):
    """What one of the texts between commas names.

    Attributes:
        path: The file.
        paddr: Where its RAM begins in guest memory.
        offset: Where it begins in the file.
        size: Bytes, or None for all that follows.
        stated: Whether a part of the file is named.
    """

    path: str
    paddr: int
    offset: int = 0
    size: int | None = None
    stated: bool = False

    @classmethod
    def parse(cls, text: str, argument: str) -> _Named:
        path, at, address = text.rpartition("@")
        if not at:
            path, address = text, "0"
        if os.path.exists(path):  # a file of that very name comes first
            return cls(path, parse_number(address, "raw"))
        match = PART.fullmatch(path)
        if match is None and BRACKET.search(path):
            raise PlanError(f"raw: the bracket in {text!r} is not [OFFSET:SIZE]", hint=FORM)
        path = match["path"] if match else path
        if not path:
            raise PlanError(f"raw:{argument} does not name a file", hint=FORM)
        if match is None:
            return cls(path, parse_number(address, "raw"))
        offset = parse_number(match["offset"], "raw") if match["offset"] else 0
        size = parse_number(match["size"], "raw") if match["size"] else None
        return cls(path, parse_number(address, "raw"), offset, size, stated=True)

    def open(self) -> _Piece:
        path, offset = self.path, self.offset
        backing = FileBacking.open(path, packings=() if self.stated else PACKINGS)
        head = b"" if self.stated else backing.read(0, min(HEAD_SIZE, backing.size))
        seen = known_file(head)
        if seen is not None and seen.role == "compressor":
            backing.close()
            hint = f"unpack it first, or write {path}[0:] where these bytes are RAM"
            raise PlanError(f"raw: {path} is compressed, and not unpacked here", hint=hint)
        end = backing.size if self.size is None else offset + self.size
        if not offset < end <= backing.size and backing.size:
            size = backing.size
            backing.close()
            wanted = f"{offset:#x} and on" if self.size is None else f"{offset:#x}..{end:#x}"
            raise PlanError(
                f"raw: {path} has {size:#x} bytes, not {wanted}", hint="write [OFFSET:SIZE], a part of the file"
            )
        kind = "a flattened dump" if is_flattened(head) else seen.kind if seen else ""
        return _Piece(self.paddr, backing, offset, end - offset, kind)


def _part(piece: _Piece) -> str:
    """The part of its file, as it is written; empty for the whole file."""
    whole = piece.offset == 0 and piece.size == piece.backing.size
    return "" if whole else f"[{piece.offset:#x}:{piece.size:#x}]"


class BytesImage(MemoryImage):
    """Guest memory that this process already holds.

    Args:
        guest: The facts; ``guest.memory`` is ignored and made from ``contents``.
        contents: Guest-physical address to the bytes there.
    """

    def __init__(self, guest: Guest, contents: dict[int, bytes | bytearray | memoryview]) -> None:
        from dataclasses import replace

        self._contents = dict(contents)
        self._guest = replace(guest, memory=MemoryMap.of((paddr, len(data)) for paddr, data in contents.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return copyreg.__newobj__, (type(self),), self.__dict__  # type: ignore[attr-defined]  # with its memory

    def guest(self) -> Guest:
        return self._guest

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        for block, start, end in _blocks(self._guest.memory, paddr, len(buffer)):
            data = memoryview(self._contents[block.paddr])
            buffer[start - paddr : end - paddr] = data[start - block.paddr : end - block.paddr]


def _blocks(memory: MemoryMap, paddr: int, size: int) -> Iterator[tuple[RamBlock, int, int]]:
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
