"""Where guest memory is, by the PT_LOADs of an ELF vmcore."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pydump.errors import FormatError
from pydump.interfaces.backing import Backing
from pydump.interfaces.pieces import Piece, held_pieces
from pydump.model.memory import PADDR_END, MemoryMap, Ranges

#: More RAM than this is not believed.
MAX_RAM: Final = 1 << 47
#: RAM so many times as large as the file is worth a warning.
MANY_TIMES: Final = 1000
_FIELDS: Final = ("p_paddr", "p_offset", "p_filesz", "p_memsz")


class Loads(NamedTuple):
    """The memory of a file.

    Attributes:
        pieces: ``(paddr, end, file offset)`` of what the file holds, ascending.
        memory: Where RAM lies.
        excluded: RAM that the file's maker left out.
        lost: RAM that the file should hold, and ends before.
        mappings: Rows of vaddr, paddr and size of the PT_LOADs that have a virtual address of their own, in the
            file's order, shape (n, 3), uint64.
        warnings: What is missing or odd, a line each.
    """

    pieces: list[Piece]
    memory: MemoryMap
    excluded: Ranges
    lost: Ranges
    mappings: NDArray[np.uint64]
    warnings: tuple[str, ...]


def find_loads(backing: Backing, segments: NDArray[Any], elf_class: int, *, incomplete: bool = False) -> Loads:
    """Find memory.

    Segments may overlap: /proc/vmcore maps the kernel's text twice, and a QEMU dump with paging=true has one segment
    for each virtual mapping. The first to claim an address has it. A page that one of them leaves out and another one
    holds is held.

    Args:
        backing: The file.
        segments: Its PT_LOADs.
        elf_class: 32 or 64.
        incomplete: Whether e_flags says that memory is missing.

    Raises:
        FormatError: What they say cannot be true.
    """
    rows, warnings = _believable(backing, segments, elf_class)
    _check_paddrs(backing, rows)
    table = rows[np.lexsort((-rows[:, 2].astype(np.int64), rows[:, 0]))].tolist()
    blocks: list[tuple[int, int]] = []
    absent: list[tuple[int, int]] = []  # RAM whose contents the file does not have
    overlap = False
    claimed = needed = 0
    for paddr, offset, filesz, memsz in table:
        end = paddr + max(filesz, memsz)
        if filesz:
            needed = max(needed, offset + filesz)
        if memsz > filesz:
            absent.append((paddr + filesz, end))
        overlap |= paddr < claimed
        if end > max(paddr, claimed):
            blocks.append((max(paddr, claimed), end))
            claimed = end
    pieces, lost = held_pieces(backing, ((paddr, offset, filesz) for paddr, offset, filesz, _ in table))
    held = Ranges.of((start, end) for start, end, _ in pieces)
    excluded = Ranges.of(absent).subtract(held).subtract(lost)
    if overlap:  # mappings, not RAM blocks: neighbours are one
        blocks = list(held.union(lost).union(excluded))
    memory = MemoryMap.of((start, end - start) for start, end in blocks)
    if memory.size > MAX_RAM:
        raise FormatError(backing.path, f"its PT_LOADs claim {memory.size >> 40} TiB of RAM", offset=0)
    if lost:
        # What its maker could not read has PT_LOADs that begin where the file ends, if it has all of its bytes.
        beyond = {offset for _, offset, filesz, _ in table if filesz and offset + filesz > backing.size}
        if incomplete and beyond == {backing.size}:
            warnings += (f"{lost.size} bytes of guest memory could not be read when the file was made",)
        else:
            why = "; ".join(backing.warnings) or f"the file ends at {backing.size:#x}, and its memory at {needed:#x}"
            warnings += (f"{why}: {lost.size} bytes of guest memory are lost",)
    elif backing.warnings:
        warnings += backing.warnings
    if memory.size > MANY_TIMES * backing.size:
        warnings += (f"its PT_LOADs claim {memory.size} bytes of RAM, and the file has {backing.size} bytes",)
    return Loads(pieces, memory, excluded, lost, _mappings(segments, elf_class), warnings)


def _believable(backing: Backing, segments: NDArray[Any], elf_class: int) -> tuple[NDArray[np.uint64], tuple[str, ...]]:
    """Paddr, offset, filesz and memsz of the PT_LOADs that speak of memory, shape (n, 4), and warnings.

    One of the two sizes stands for the other where that one cannot be true.
    """
    nowhere = np.uint64((1 << elf_class) - 1)
    rows = np.stack([segments[name].astype(np.uint64) for name in _FIELDS], axis=1)
    # QEMU gives offset -1 to a mapping of what is not RAM, or not in the range that was asked for.
    rows = rows[(rows[:, 0] != nowhere) & (rows[:, 3] | rows[:, 2] > 0) & ((rows[:, 1] != nowhere) | (rows[:, 2] > 0))]
    warnings: tuple[str, ...] = ()
    room = np.minimum(np.uint64(MAX_RAM), np.uint64(PADDR_END - 1) - rows[:, 0])
    too_large = rows[:, 2:] > room[:, None]
    for i in np.flatnonzero(too_large.any(axis=1)).tolist():
        paddr, _, filesz, memsz = rows[i].tolist()
        if too_large[i].all() or not min(filesz, memsz):
            raise FormatError(
                backing.path,
                f"a PT_LOAD at paddr {paddr:#x} of {max(filesz, memsz):#x} bytes reaches the end of the address space",
            )
        rows[i, 2:] = min(filesz, memsz)
        if not warnings:
            name, size = ("p_filesz", filesz) if too_large[i, 0] else ("p_memsz", memsz)
            warnings = (f"{name} of the PT_LOAD at paddr {paddr:#x} is {size:#x}: its other size is taken",)
    return rows, warnings


def _check_paddrs(backing: Backing, rows: NDArray[np.uint64]) -> None:
    """Refuse a file that does not say where its memory lies: every PT_LOAD at 0, each with bytes of its own."""
    filled = rows[rows[:, 2] > 0]
    if len(filled) > 1 and not filled[:, 0].any() and (filled[:, 1] != filled[0, 1]).any():
        raise FormatError(
            backing.path,
            f"all of its {len(filled)} PT_LOADs have p_paddr 0, so that it does not say where memory lies",
            hint="the core of a process, and /proc/kcore of Linux before 4.14, have such headers; gdb reads them",
        )


def _mappings(segments: NDArray[Any], elf_class: int) -> NDArray[np.uint64]:
    """The virtual addresses that the file's maker gave: neither 0 nor the physical address."""
    rows: NDArray[np.uint64] = np.stack(
        [
            segments["p_vaddr"].astype(np.uint64),
            segments["p_paddr"].astype(np.uint64),
            np.maximum(segments["p_memsz"], segments["p_filesz"]).astype(np.uint64),
        ],
        axis=1,
    )
    last = np.uint64((1 << elf_class) - 1)
    own = (rows[:, 0] != 0) & (rows[:, 0] != rows[:, 1]) & (rows[:, 1] != last) & (rows[:, 2] > 0)
    own &= (rows[:, 2] <= last - rows[:, 0]) & (rows[:, 2] <= np.uint64(PADDR_END - 1) - rows[:, 1])
    kept: NDArray[np.uint64] = rows[own]
    return kept
