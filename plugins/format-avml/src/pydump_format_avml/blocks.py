"""Finds the blocks and frames of an AVML file. Where a block ends is known only when its frames have been followed."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pydump.errors import FormatError
from pydump.interfaces.backing import Backing
from pydump.layout.lime import AVML_MAGIC, AVML_VERSION, LIME_MAGIC, LIME_VERSION, RangeHeader
from pydump.model.memory import Ranges
from pydump_format_avml.framing import (
    COMPRESSED,
    CRC,
    FRAME_HEADER,
    MAX_DATA,
    PLAIN,
    SKIPPED,
    STREAM_IDENTIFIER,
    TRAILER,
    stated_length,
)

#: A file has at most this many blocks: 16 TiB in blocks of 16 MiB.
MAX_BLOCKS: Final = 1 << 20
#: A file has at most this many frames: 4 TiB in frames of 64 KiB.
MAX_FRAMES: Final = 1 << 26
#: No guest has more RAM.
MAX_RAM: Final = 1 << 47
#: Bytes that are read at once to look at headers.
WINDOW: Final = 4096


@dataclass(frozen=True, slots=True)
class Index:
    """Where the memory of a file lies.

    Attributes:
        frames: Rows of paddr, size in memory, offset in the file, and size there with the frame's header, ascending in
            paddr, shape (n, 4), int64. The size in the file of bare memory (a LiME range) is 0.
        memory: RAM that the file states.
        lost: What of it the file lacks.
        n_blocks: How many blocks there are.
        cut: Whether blocks may follow that were not found.
        warnings: What is missing or odd, a line each.
    """

    frames: NDArray[np.int64]
    memory: Ranges
    lost: Ranges
    n_blocks: int
    cut: bool
    warnings: tuple[str, ...]


def read_index(backing: Backing) -> Index:
    """Follow all blocks and frames.

    Raises:
        FormatError: There is no block.
    """
    walk = _Walk(backing)
    fault = walk.run()
    if not walk.blocks:
        raise FormatError(backing.path, fault or "the file is empty", offset=walk.at)
    warnings = [f"{fault} at offset {walk.at:#x}: what follows is not read"] if fault else []
    frames = np.frombuffer(walk.frames, np.int64).reshape(-1, 4)
    frames = frames[np.argsort(frames[:, 0], kind="stable")]
    if (frames[1:, 0] < (frames[:, 0] + frames[:, 1])[:-1]).any():
        frames = _apart(frames)
        warnings.append("blocks overlap: where they do, the one that begins first is read")
    memory = Ranges.of(walk.blocks)
    lost = memory.subtract(Ranges.of_array(np.stack([frames[:, 0], frames[:, 0] + frames[:, 1]], axis=1)))
    if lost:
        warnings.append(f"the file is cut off or damaged: {lost.size} bytes of guest memory are lost")
    return Index(frames, memory, lost, len(walk.blocks), bool(fault), tuple(warnings) + walk.odd)


def _apart(frames: NDArray[np.int64]) -> NDArray[np.int64]:
    """The frames that no earlier one overlaps: a part of a frame cannot be addressed."""
    ends = np.maximum.accumulate(frames[:, 0] + frames[:, 1])
    keep = np.ones(len(frames), bool)
    keep[1:] = frames[1:, 0] >= ends[:-1]
    return frames[keep]


class _Walk:
    """Goes through a file from block to block.

    Attributes:
        at: The offset that is looked at.
        blocks: ``(start, end)`` in paddr of each.
        frames: Four numbers for each frame, as in :class:`Index`.
        odd: A line for what is odd and can be read all the same.
    """

    def __init__(self, backing: Backing) -> None:
        self._backing = backing
        self._window = b""
        self._window_at = 0
        self.at = 0
        self.blocks: list[tuple[int, int]] = []
        self.frames = array("q")
        self.odd: tuple[str, ...] = ()
        self._total = 0

    def run(self) -> str:
        """Go as far as possible; returns what ends it, or nothing at the end of the file."""
        while self.at < self._backing.size:
            if len(self.blocks) == MAX_BLOCKS:
                return f"there are more than {MAX_BLOCKS} blocks"
            if self.at + RangeHeader.nbytes() > self._backing.size:
                return "the file ends within a header"
            header = RangeHeader.unpack(self._peek(self.at, RangeHeader.nbytes()), "little")
            size = header.e_addr - header.s_addr + 1
            fault = self._fault(header, size)
            if fault:
                return fault
            self.blocks.append((header.s_addr, header.s_addr + size))
            self._total += size
            self.at += RangeHeader.nbytes()
            fault = self._bare(header.s_addr, size) if header.magic == LIME_MAGIC else self._stream(header.s_addr, size)
            if fault:
                return fault
        return ""

    def _fault(self, header: RangeHeader, size: int) -> str:
        """What is wrong with a header, or nothing."""
        if (header.magic, header.version) not in ((AVML_MAGIC, AVML_VERSION), (LIME_MAGIC, LIME_VERSION)):
            return "there is no AVML header"
        if size <= 0:
            return f"a block ends at {header.e_addr:#x}, before it begins"
        if header.e_addr == (1 << 64) - 1 or header.e_addr >> 63 or self._total + size > MAX_RAM:
            return f"a block at paddr {header.s_addr:#x} is too large"
        return ""

    def _bare(self, paddr: int, size: int) -> str:
        """A range of LiME's, which AVML's own reader takes among its blocks."""
        there = min(size, self._backing.size - self.at)
        if there:
            self.frames.extend((paddr, there, self.at, 0))
        self.at += size
        return ""

    def _stream(self, paddr: int, size: int) -> str:
        """Follow the frames of a block."""
        begin, end = self.at, paddr + size
        while paddr < end:
            head = self._peek(self.at, min(FRAME_HEADER + CRC + 5, max(0, self._backing.size - self.at)))
            kind, length = (head[0], int.from_bytes(head[1:4], "little")) if len(head) >= FRAME_HEADER else (0, 0)
            if len(head) < FRAME_HEADER or self.at + FRAME_HEADER + length > self._backing.size:
                return "the file ends within a block"
            if kind in (COMPRESSED, PLAIN):
                data = stated_length(head[FRAME_HEADER + CRC :]) if kind == COMPRESSED else length - CRC
                if not 0 < data <= min(MAX_DATA, end - paddr) or length <= CRC or len(self.frames) >= 4 * MAX_FRAMES:
                    return "a frame is damaged"
                self.frames.extend((paddr, data, self.at, FRAME_HEADER + length))
                paddr += data
            elif kind == 0xFF:
                if head[: len(STREAM_IDENTIFIER)] != STREAM_IDENTIFIER:
                    return "a stream identifier is damaged"
            elif kind not in SKIPPED:
                return f"a frame has the type {kind:#x}, which is unknown"
            self.at += FRAME_HEADER + length
        if self.at + TRAILER > self._backing.size:
            return "the file ends behind a block"
        stated = int.from_bytes(self._peek(self.at, TRAILER), "little")
        if stated != self.at - begin and not self.odd:
            self.odd = (f"the block behind offset {begin:#x} has {self.at - begin} bytes, and {stated} are stated",)
        self.at += TRAILER
        return ""

    def _peek(self, offset: int, size: int) -> bytes:
        """A few bytes of the file, of which some more are kept for the next time."""
        at = offset - self._window_at
        if not 0 <= at <= len(self._window) - size:
            self._window = self._backing.read(offset, max(size, min(WINDOW, self._backing.size - offset)))
            self._window_at, at = offset, 0
        return self._window[at : at + size]
