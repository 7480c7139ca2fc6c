"""The headers of an ELF vmcore, as far as the file has them."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pydump.errors import FormatError
from pydump.interfaces.backing import Backing
from pydump.layout.elf import CLASSES, ELFMAG, ET_CORE, ORDERS, PN_XNUM, PT_LOAD, PT_NOTE, Ident
from pydump.model.guest import ByteOrder

#: More program headers than this are not believed: a guest of 16 TiB in pieces of 1 MiB has so many.
MAX_SEGMENTS: Final = 1 << 24
#: Program headers that are read in one go.
ROWS_AT_ONCE: Final = 1 << 16


class Headers(NamedTuple):
    """What a file says of itself.

    Attributes:
        elf_class: 32 or 64.
        byte_order: Of all its numbers.
        header: The ELF header.
        shdr: The section header struct of its class.
        segments: The program headers of type PT_LOAD and PT_NOTE that the file has, in its order.
        warnings: What is missing or odd, a line each.
        cut: Whether the file ends before its last program header.
    """

    elf_class: int
    byte_order: ByteOrder
    header: Any
    shdr: Any
    segments: NDArray[Any]
    warnings: tuple[str, ...]
    cut: bool


def read_headers(backing: Backing) -> Headers:
    """Read the ELF header and the program headers.

    Raises:
        FormatError: The file is not a core, or has no program header.
    """
    path = backing.path
    ident = backing.read(0, min(backing.size, Ident.nbytes()))
    if len(ident) < Ident.nbytes() or not ident.startswith(ELFMAG):
        raise FormatError(path, "it has no ELF header", offset=0)
    ei_class, ei_data = ident[4], ident[5]
    if ei_class not in CLASSES or ei_data not in ORDERS:
        raise FormatError(path, f"ELF class {ei_class}, data encoding {ei_data}: both are 1 or 2", offset=4)
    bits, ehdr, phdr, shdr = CLASSES[ei_class]
    byte_order = ORDERS[ei_data]
    header: Any = ehdr.unpack(backing.read(0, ehdr.nbytes()), byte_order)
    if header.e_type != ET_CORE:
        raise FormatError(path, f"an ELF file of type {header.e_type}, not a core file", offset=16)
    count, all_counted, warnings = _count(backing, header, phdr, shdr, byte_order)
    if count and header.e_phentsize != phdr.nbytes():
        raise FormatError(path, f"program headers of {header.e_phentsize} bytes, not {phdr.nbytes()}", offset=0)
    if count > MAX_SEGMENTS:
        raise FormatError(path, f"it claims {count} program headers", offset=0)
    there = first_bytes(backing, header.e_phoff, count * phdr.nbytes()) // phdr.nbytes()
    if not there:
        raise FormatError(
            path,
            "it has no program headers, and so no memory",
            offset=0,
            hint="the file is truncated" if count else None,
        )
    if there < count:
        warnings += (f"the file ends after {there} of {count} program headers: what the others say is lost",)
    segments = _table(backing, header.e_phoff, there, phdr.dtype(byte_order))
    cut = there < count or not all_counted
    return Headers(bits, byte_order, header, shdr, segments, warnings, cut)


def first_bytes(backing: Backing, offset: int, size: int) -> int:
    """How many bytes of a range the file has before the first one that it lacks."""
    return next(backing.missing(offset, size), (offset + size, 0))[0] - offset


def _count(
    backing: Backing, header: Any, phdr: Any, shdr: Any, byte_order: ByteOrder
) -> tuple[int, bool, tuple[str, ...]]:
    """How many program headers are known of, whether these are all, and warnings."""
    if header.e_phnum != PN_XNUM:
        return header.e_phnum, True, ()
    if header.e_shoff + shdr.nbytes() <= backing.size:
        first = shdr.unpack(backing.read(header.e_shoff, shdr.nbytes()), byte_order)
        return first.sh_info or PN_XNUM, True, ()
    count = PN_XNUM
    if header.e_phoff + phdr.nbytes() <= backing.size:
        first = phdr.unpack(backing.read(header.e_phoff, phdr.nbytes()), byte_order)
        if first.p_offset > header.e_phoff:  # the table ends where the first segment begins
            count = min(count, (first.p_offset - header.e_phoff) // phdr.nbytes())
    return count, False, (f"the file ends before the number of its program headers: the first {count} are read",)


def _table(backing: Backing, offset: int, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The rows that matter of a table, of which a hostile file may have millions in a hole."""
    size = dtype.itemsize
    pieces = [np.empty(0, dtype)]
    done = 0
    for start, end in backing.data_ranges(offset, count * size):
        last = -(-(end - offset) // size)
        for at in range(max(done, (start - offset) // size), last, ROWS_AT_ONCE):
            rows = np.frombuffer(backing.read(offset + at * size, min(ROWS_AT_ONCE, last - at) * size), dtype)
            pieces.append(rows[(rows["p_type"] == PT_LOAD) | (rows["p_type"] == PT_NOTE)])
        done = max(done, last)
    return np.concatenate(pieces)
