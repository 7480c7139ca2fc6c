"""Where a guest has RAM: a stub does not say, so it comes from the user, QEMU's monitor, or the guest's memory."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from typing import Final

from pydump.errors import PlanError, ReadError, SourceError
from pydump.model.memory import MemoryMap
from pydump.options import parse_number
from pydump_qemu_stream.flat_view import memory_of, seen

#: More RAM than this, and more parts of it, are not believed.
MAX_RAM: Final = 1 << 47
MAX_PARTS: Final = 1 << 12
HINT: Final = "name it: --gdb-ram 0-3G,4G-5G"


def stated_ram(text: str) -> MemoryMap:
    """What the user writes: ``0-3G,4G-5G``.

    Raises:
        PlanError: It is not a list of ranges.
    """
    found = []
    for part in text.split(","):
        start, dash, end = part.partition("-")
        if not dash:
            raise PlanError(f"--gdb-ram {text}: {part!r} is not a range", hint="write START-END,…, as 0-3G,4G-5G")
        first, last = parse_number(start), parse_number(end)
        if not first < last <= 1 << 63:
            raise PlanError(f"--gdb-ram {text}: {part} is empty, or ends beyond the address space", hint=HINT)
        found.append((first, last - first))
    try:
        return MemoryMap.of(found)
    except ValueError as error:
        raise PlanError(f"--gdb-ram {text}: {error}", hint=HINT) from None


def flat_view_ram(text: str) -> MemoryMap:
    """The RAM in what QEMU's ``info mtree -f`` prints; empty where it is not that.

    Raises:
        SourceError: It is damaged, or has more RAM than any guest.
    """
    memory = memory_of(seen(text, MAX_RAM))
    if memory.ranges().size > MAX_RAM:
        raise SourceError(f"the stub's monitor lists {memory.ranges().size:#x} bytes of RAM", hint=HINT)
    return memory


#: ``(paddr, size) -> bytes``. Raises ReadError where there is nothing.
ReadPhysical = Callable[[int, int], bytes]

#: A PC's memory for its first programs. Linux's boot_params lie there, and stay.
LOW_MEMORY: Final = 640 << 10
#: Offsets in struct boot_params: the number of entries, the table, and the header's signature with what is before it.
#: Source: arch/x86/include/uapi/asm/bootparam.h, and Documentation/arch/x86/zero-page.rst of Linux.
E820_ENTRIES, E820_TABLE, BOOT_FLAG, HEADER = 0x1E8, 0x2D0, 0x1FE, 0x202
E820_MAX, E820_RAM = 128, 1
_E820_ENTRY = struct.Struct("<QQI")


def e820_ram(read: ReadPhysical) -> MemoryMap:
    """The RAM that firmware told Linux of on x86; empty where low memory does not hold its list."""
    low = _low_memory(read)
    for match in re.finditer(b"\x55\xaa..HdrS", low, re.DOTALL):
        base = match.start() - BOOT_FLAG
        if base >= 0 and (ram := _e820(low[base:])):
            return ram
    return MemoryMap()


def _low_memory(read: ReadPhysical) -> bytes:
    parts = []
    for at in range(0, LOW_MEMORY, 4096):
        try:
            parts.append(read(at, 4096))
        except ReadError:
            parts.append(bytes(4096))
    return b"".join(parts)


def _e820(params: bytes) -> MemoryMap | None:
    """The RAM in a struct boot_params, or None where it is not one."""
    count = params[E820_ENTRIES] if len(params) > E820_TABLE else 0
    table = params[E820_TABLE : E820_TABLE + count * _E820_ENTRY.size]
    if not 0 < count <= E820_MAX or len(table) < count * _E820_ENTRY.size:
        return None
    found = [(start, size) for start, size, kind in _E820_ENTRY.iter_unpack(table) if kind == E820_RAM]
    return _believed(found)


#: Pages of RAM whose begin is looked at for a device tree.
FDT_PAGES: Final = 1 << 14
FDT_MAGIC: Final = b"\xd0\x0d\xfe\xed"
MAX_FDT: Final = 2 << 20
#: What looks like a tree is taken for one so often.
MAX_TREES: Final = 8
#: Characters of a property's name, and its NUL: more than the specification's 31, which ppc64's exceed.
MAX_NAME: Final = 256
_FDT_BEGIN, _FDT_END, _FDT_PROP, _FDT_NOP = 1, 2, 3, 4


def device_tree_ram(read: ReadPhysical, start: int) -> MemoryMap:
    """The RAM in the device tree that lies in memory; empty where there is none.

    Args:
        read: Reads memory.
        start: Where to begin to look; the end is where nothing is.

    Source: Devicetree Specification 0.4, chapter 5.
    """
    left = MAX_TREES
    for paddr in range(start, start + FDT_PAGES * 4096, 4096):
        try:
            head = read(paddr, 8)
            size = int.from_bytes(head[4:8], "big")
            if head[:4] != FDT_MAGIC or not 40 < size <= MAX_FDT:
                continue
            left -= 1
            if (ram := tree_ram(read(paddr, size))) or not left:
                return ram or MemoryMap()
        except ReadError:
            break
    return MemoryMap()


def tree_ram(tree: bytes) -> MemoryMap | None:
    """The RAM in the ``memory`` nodes of a flattened device tree, or None where it is damaged."""
    cells = {b"#address-cells": 2, b"#size-cells": 1}
    registers: dict[int, bytes] = {}
    memory: set[int] = set()
    try:
        for depth, node, name, value in _properties(tree):
            if depth == 1 and name in cells and len(value) == 4:
                cells[name] = int.from_bytes(value, "big")
            elif depth == 2 and name == b"device_type" and value == b"memory\0":
                memory.add(node)
            elif depth == 2 and name == b"reg":
                registers[node] = value
    except (struct.error, IndexError, ValueError):
        return None
    at, size = (4 * cells[name] for name in (b"#address-cells", b"#size-cells"))
    if not (4 <= at <= 8 and 4 <= size <= 8):
        return None
    found = []
    for value in (registers[node] for node in memory if node in registers):
        for i in range(0, len(value) - at - size + 1, at + size):
            words = value[i : i + at + size]
            found.append((int.from_bytes(words[:at], "big"), int.from_bytes(words[at:], "big")))
    return _believed(found)


def _properties(tree: bytes) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Depth and number of the node, name and value of each property."""
    structs, strings = struct.unpack_from(">II", tree, 8)
    at, depth, node = structs, 0, 0
    while True:
        (token,) = struct.unpack_from(">I", tree, at)
        at += 4
        if token == _FDT_BEGIN:
            at = (tree.index(b"\0", at) + 4) & ~3
            depth, node = depth + 1, node + 1
        elif token == _FDT_END:
            depth -= 1
        elif token == _FDT_PROP:
            size, name = struct.unpack_from(">II", tree, at)
            begin = strings + name
            yield depth, node, tree[begin : tree.index(b"\0", begin, begin + MAX_NAME)], tree[at + 8 : at + 8 + size]
            at = (at + 8 + size + 3) & ~3
        elif token != _FDT_NOP:
            return


def _believed(found: list[tuple[int, int]]) -> MemoryMap | None:
    """What firmware says, if it can be."""
    if (
        len(found) > MAX_PARTS
        or any(start + size > 1 << 63 for start, size in found)
        or sum(size for _, size in found) > MAX_RAM
    ):
        return None
    try:
        return MemoryMap.of(found) or None
    except ValueError:
        return None
