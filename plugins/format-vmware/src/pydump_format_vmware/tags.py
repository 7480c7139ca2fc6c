"""The groups and tags of a VMware checkpoint file, all little-endian.

A file has a table of groups. A group is a list of tags, each with a name, up to three indices, and a value or a block.

Source: crash, vmware_vmss.c and vmware_vmss.h; Volatility 3, framework/layers/vmware.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Final

from pydump.errors import FormatError
from pydump.interfaces.backing import Backing
from pydump.layout.struct import U16, U32, U64, Layout

Name64 = Annotated[bytes, "64s"]  #: A name of up to 64 bytes.

#: VMware's files have some hundred groups.
MAX_GROUPS: Final = 4096
#: Tags that are read of a group; 1024 CPUs have some 64 each.
MAX_TAGS: Final = 1 << 18
#: Values of this size, and of one byte less if they are compressed, are blocks.
BLOCK: Final = 63
#: Bytes that are read at once.
WINDOW: Final = 1 << 16


class CptDumpHeader(Layout):
    """The file's first bytes."""

    id: U32 = 0
    version: U32 = 0
    numgroups: U32 = 0


class CptGroupDesc(Layout):
    """A group of the table behind the header."""

    name: Name64 = b""
    position: U64 = 0
    size: U64 = 0


class BlockHeader(Layout):
    """What a tag has in front of a block: bytes in the file, bytes that they stand for, and bytes of padding."""

    n_bytes: U64 = 0
    n_bytes_in_mem: U64 = 0
    pad_size: U16 = 0


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag.

    Attributes:
        name: Its name.
        indices: Up to three numbers, such as that of a CPU.
        value: The number it holds; of a block, 0.
        offset: Where its bytes are in the file.
        size: How many there are.
        compressed: Whether a block is compressed.
        is_block: Whether it is a block.
    """

    name: str
    indices: tuple[int, ...]
    value: int
    offset: int
    size: int
    compressed: bool = False
    is_block: bool = False


def read_groups(backing: Backing) -> dict[str, int]:
    """Where each group begins, by its name.

    Raises:
        FormatError: The table of groups is not there.
    """
    header = CptDumpHeader.unpack(backing.read(0, CptDumpHeader.nbytes()), "little")
    if not 0 < header.numgroups <= MAX_GROUPS:
        raise FormatError(backing.path, f"it states {header.numgroups} groups", offset=8)
    size = CptGroupDesc.nbytes()
    table = backing.read(CptDumpHeader.nbytes(), header.numgroups * size)
    groups = (CptGroupDesc.unpack(table, "little", i * size) for i in range(header.numgroups))
    return {group.name.split(b"\0", 1)[0].decode("latin-1"): group.position for group in groups}


class Tags:
    """The tags of a group, in the file's order.

    Attributes:
        fault: Why the rest of the group could not be read, or nothing; known when all have been taken.
    """

    def __init__(self, backing: Backing, offset: int) -> None:
        self._backing = backing
        self._at = offset
        self._window = b""
        self._window_at = 0
        self.fault = ""

    def __iter__(self) -> Iterator[Tag]:
        for _ in range(MAX_TAGS):
            try:
                tag = self._next()
            except FormatError:
                self.fault = "the file ends within its tags"
                return
            if tag is None:
                return
            yield tag
        self.fault = f"there are more than {MAX_TAGS} tags"

    def _next(self) -> Tag | None:
        """The next tag, or None at the end of the group.

        Raises:
            FormatError: The file ends before.
        """
        flags, name_size = self._take(2)
        if not flags and not name_size:
            return None
        name = self._take(name_size).decode("latin-1")
        indices = struct.unpack(f"<{flags >> 6}I", self._take(4 * (flags >> 6)))
        size = flags & 0x3F
        if size < BLOCK - 1:
            offset = self._at
            return Tag(name, indices, int.from_bytes(self._take(size), "little"), offset, size)
        block = BlockHeader.unpack(self._take(BlockHeader.nbytes()), "little")
        offset = self._at + block.pad_size
        self._at = offset + block.n_bytes
        return Tag(name, indices, 0, offset, block.n_bytes, compressed=size == BLOCK - 1, is_block=True)

    def _take(self, size: int) -> bytes:
        """The next bytes of the file, of which some more are kept for the next time."""
        at = self._at - self._window_at
        if not 0 <= at <= len(self._window) - size:
            there = max(size, min(WINDOW, self._backing.size - self._at))
            self._window, self._window_at, at = self._backing.read(self._at, there), self._at, 0
        self._at += size
        return self._window[at : at + size]
