"""ELF sections that belong to a dump: what an architecture adds, such as a protected guest's metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pydump.interfaces.backing import Backing
from pydump.layout.elf import SHT_NOBITS, SHT_NULL, SHT_STRTAB
from pydump.model.guest import ByteOrder, Section
from pydump.model.memory import Ranges

#: A section header table longer than this is not believed; QEMU writes at most four.
MAX_SECTIONS: Final = 64
#: Nor more bytes of their names.
MAX_NAMES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class _FileData:
    """A part of a file, read when it is wanted: a protected guest's metadata grows with its memory."""

    backing: Backing
    offset: int
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, span: slice, /) -> bytes:
        start, stop, _ = span.indices(self.size)
        return self.backing.read(self.offset + start, max(0, stop - start))


def read_sections(
    backing: Backing, header: Any, shdr: Any, byte_order: ByteOrder, loads: Ranges
) -> tuple[tuple[Section, ...], tuple[str, ...]]:
    """The sections of a file but the empty first one and the string tables, and the names of those that are left out.

    Left out are sections that repeat what a PT_LOAD or an earlier section has: they describe memory, which the dump
    holds once, and add nothing to it.

    QEMU leaves some section headers of a big-endian guest in the byte order of the machine it runs on, so a header
    that makes no sense in the file's order is read in the other. A table that makes sense in neither is ignored:
    the memory does not depend on it.

    Args:
        backing: The file.
        header: Its ELF header.
        shdr: The section header struct of its class.
        byte_order: Its byte order.
        loads: Where in the file memory is.
    """
    count, size = header.e_shnum, shdr.nbytes()
    if not 2 < count <= MAX_SECTIONS or header.e_shentsize != size or header.e_shoff + count * size > backing.size:
        return (), ()
    table = backing.read(header.e_shoff, count * size)
    rows = [_sensible(backing, table, i * size, shdr, byte_order) for i in range(count)]
    names = rows[header.e_shstrndx] if header.e_shstrndx < count else None
    strings = b""
    if names is not None and names.sh_type == SHT_STRTAB:
        strings = backing.read(names.sh_offset, min(names.sh_size, MAX_NAMES))
    sections, left_out = [], []
    taken = loads
    for row in rows:
        if row is None or row.sh_type in (SHT_NULL, SHT_STRTAB, SHT_NOBITS):
            continue
        name = strings[row.sh_name :].split(b"\0", 1)[0].decode("utf-8", "replace")
        place = Ranges.of([(row.sh_offset, row.sh_offset + row.sh_size)])
        if taken.intersect(place):
            left_out.append(name)
            continue
        taken = taken.union(place)
        data = _FileData(backing, row.sh_offset, row.sh_size)
        sections.append(Section(name, row.sh_type, data, row.sh_flags, row.sh_addr, row.sh_info, row.sh_entsize))
    return tuple(sections), tuple(left_out)


def _sensible(backing: Backing, table: bytes, at: int, shdr: Any, byte_order: ByteOrder) -> Any:
    other: ByteOrder = "big" if byte_order == "little" else "little"
    for order in (byte_order, other):
        row = shdr.unpack(table, order, at)
        if row.sh_type < 1 << 16 and row.sh_offset + row.sh_size <= backing.size:
            return row
    return None
