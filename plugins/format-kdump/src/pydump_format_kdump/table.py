"""The page descriptors: where the bytes of each page are, and which of them lead nowhere."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pydump.model.memory import Ranges
from pydump_format_kdump.layout import COMPRESSION_FLAGS, PageDesc
from pydump_format_kdump.parts import Part

#: Descriptors that are looked at in one go.
DESCS_AT_ONCE: Final = 1 << 15
#: Descriptors that are looked at first, where that may be enough.
DESCS_AT_FIRST: Final = 1 << 9
#: Descriptors at the end of a table, at most, that are looked at for whether a remote file was cut.
DESCS_FROM_AFAR: Final = 1 << 12
#: Descriptors that are read although nobody wants them, where that saves a read.
MAX_DESC_GAP: Final = 64
#: The names of compressors by the flags of a descriptor.
CODEC_NAMES: Final = {int(flag): name for name, flag in COMPRESSION_FLAGS.items()}
#: Which flags mean nothing, those of larger numbers counted as the last one.
_UNKNOWN_FLAGS: Final = np.ones(max(CODEC_NAMES) + 2, bool)
_UNKNOWN_FLAGS[[0, *CODEC_NAMES]] = False


def sound(descs: NDArray[Any], begin: int, end: int, block_size: int) -> NDArray[np.bool]:
    """Whether each descriptor can be one.

    Args:
        descs: The descriptors.
        begin: Where page data begins.
        end: Where it ends.
        block_size: Bytes of a page.
    """
    offsets, sizes, flags = (descs[name].astype(np.int64) for name in ("offset", "size", "flags"))
    found = (offsets >= begin) & (sizes > 0) & (sizes <= block_size) & (offsets <= end - sizes)
    found &= ~_UNKNOWN_FLAGS[np.minimum(flags, len(_UNKNOWN_FLAGS) - 1)]
    found &= (flags != 0) | (sizes == block_size)
    return found


class DescTable:
    """The descriptors of one part.

    Args:
        part: The part.
    """

    def __init__(self, part: Part) -> None:
        self._part = part
        self._block_size = part.headers.block_size
        self._dtype = PageDesc.dtype(part.headers.byte_order)
        file, size = part.backing, part.backing.size
        self._n_there = max(0, min(part.n_pages, (size - part.headers.descs) // self._dtype.itemsize))
        # Only a flattened stream that was cut off lacks bytes before its end.
        holes = [*file.missing(part.descs_end, size - part.descs_end)] if size > part.descs_end else []
        self._holes = Ranges.of(holes).array.astype(np.int64)

    def read(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Offsets, sizes and flags of pages.

        Args:
            numbers: Which pages of the part, ascending.

        Returns:
            Them, with offset 0 for a page that is lost.
        """
        itemsize, backing, descs_at = self._dtype.itemsize, self._part.backing, self._part.headers.descs
        descs = np.zeros(len(numbers), self._dtype)
        there = int(np.searchsorted(numbers, self._n_there))
        done = 0
        for group in np.split(numbers[:there], np.flatnonzero(np.diff(numbers[:there]) > MAX_DESC_GAP) + 1):
            if len(group):
                size = int(group[-1] - group[0] + 1) * itemsize
                raw = backing.read(descs_at + int(group[0]) * itemsize, size)
                descs[done : done + len(group)] = np.frombuffer(raw, self._dtype)[group - group[0]]
                done += len(group)
        return self._columns(descs)

    def _columns(self, descs: NDArray[Any]) -> tuple[NDArray[np.int64], ...]:
        offsets, sizes, flags = (descs[name].astype(np.int64) for name in ("offset", "size", "flags"))
        limit = self._part.backing.size
        lost = ~sound(descs, self._part.descs_end, limit, self._block_size)
        if len(self._holes):
            which = np.searchsorted(self._holes[:, 1], offsets, "right")
            starts = np.append(self._holes[:, 0], limit)
            lost |= offsets + sizes > starts[which]
        offsets[lost] = 0
        return offsets, sizes, flags

    def lost(self) -> NDArray[np.int64]:
        """Which pages of the part have a descriptor that leads nowhere, or none."""
        found = [np.arange(self._n_there, self._part.n_pages)]
        for first in range(0, self._n_there, DESCS_AT_ONCE):
            last = min(first + DESCS_AT_ONCE, self._n_there)
            found.insert(-1, np.flatnonzero(self._columns(self._descs(first, last))[0] == 0) + first)
        return np.concatenate(found)

    def why(self, number: int) -> str:
        """What is wrong with the descriptor of a page that is lost."""
        if number >= self._n_there:
            return "it is behind the end of the file"
        (desc,) = self._descs(number, number + 1)
        offset, size, flags = (int(desc[name]) for name in ("offset", "size", "flags"))
        if offset == 0:
            return "it is empty"
        if flags and flags not in CODEC_NAMES:
            return f"unknown compression flag {flags:#x}"
        if not 0 < size <= self._block_size:
            return f"{size} bytes, and a page has 1 to {self._block_size}"
        if flags == 0 and size != self._block_size:
            return f"stored raw, but with {size} bytes"
        where = "among the headers" if 0 < offset < self._part.descs_end else "outside the file"
        return f"its data lies {where}, at {offset:#x}"

    def is_cut(self) -> bool:
        """Whether pages at the end of the part are lost. Quick where the data of the last page ends the file."""
        if self._n_there < self._part.n_pages or len(self._holes):
            return True
        size, remote = self._part.backing.size, self._part.backing.remote
        lowest = max(0, self._n_there - DESCS_FROM_AFAR) if remote else 0
        last, step = self._n_there, DESCS_AT_FIRST
        while last > lowest:
            descs = self._descs(max(lowest, last - step), last)
            end = int((descs["offset"].astype(np.uint64) + descs["size"]).max())
            if end >= size:
                return end > size
            last, step = last - step, DESCS_AT_ONCE
        return False

    def flags(self) -> tuple[int, ...]:
        """The flags that the first descriptors have."""
        descs = self._descs(0, min(DESCS_AT_FIRST if self._part.backing.remote else DESCS_AT_ONCE, self._n_there))
        return tuple(sorted(set(descs["flags"][descs["offset"] != 0].tolist())))

    def _descs(self, first: int, last: int) -> NDArray[Any]:
        itemsize = self._dtype.itemsize
        at = self._part.headers.descs + first * itemsize
        return np.frombuffer(self._part.backing.read(at, (last - first) * itemsize), self._dtype)
