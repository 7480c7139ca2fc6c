"""The registers of a VMware state: its group ``cpu``, for x86-64.

Source: crash, vmware_vmss.c and struct vmssregs64 of vmware_vmss.h.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from pydump.interfaces.backing import Backing
from pydump.layout.registers import numbered
from pydump.model.guest import Cpu
from pydump_format_vmware.tags import Tag

#: No state has more CPUs.
MAX_CPUS: Final = 4096
#: In a block ``gpregs``, 64 bits each.
GENERAL: Final = f"rax rcx rdx rbx rbp rsp rsi rdi {numbered('r{}', 8, first=8)}".split()
#: By their second index.
SEGMENTS: Final = "es cs ss ds fs gs ldt tr".split()
#: By their second index, or in a block of 64 bits each; there is no register cr1 but a place for it.
CONTROL: Final = numbered("cr{}", 5).split()
#: Tags that hold one register of a CPU.
SINGLE: Final = {**{name: name for name in GENERAL}, "rip": "rip", "eflags": "rflags", "EFLAGS": "rflags"}
#: Tags of the registers that say where a table of descriptors is: a limit of 16 bits and a base.
TABLES: Final = {"IDTR": "idt", "GDTR": "gdt"}


def read_cpus(backing: Backing, tags: Iterable[Tag]) -> tuple[Cpu, ...]:
    """The CPUs that have registers, in ascending order.

    Args:
        backing: The file.
        tags: Those of its group ``cpu``.
    """
    found: defaultdict[int, dict[str, int]] = defaultdict(dict)
    for tag in tags:
        if tag.indices and tag.indices[0] < MAX_CPUS:
            values = _block(backing, tag) if tag.is_block else _single(tag)
            if values:
                found[tag.indices[0]].update(values)
    for registers in found.values():
        for table in TABLES.values():  # a base of 32 bits and its high half have tags of their own
            high = registers.pop(f"{table}_high", 0)
            if high:
                registers[f"{table}_base"] = registers.get(f"{table}_base", 0) | high << 32
    return tuple(Cpu(index, registers) for index, registers in sorted(found.items()))


def _block(backing: Backing, tag: Tag) -> dict[str, int]:
    """The registers of a block."""
    names = {"gpregs": GENERAL, "CR64": CONTROL}.get(tag.name)
    if tag.compressed or tag.offset + tag.size > backing.size:
        return {}
    if names is not None and tag.size >= 8 * len(names):
        data = backing.read(tag.offset, 8 * len(names))
        return dict(zip(names, struct.unpack(f"<{len(names)}Q", data), strict=True))
    if tag.name in TABLES and tag.size == 10:
        limit, base = struct.unpack("<HQ", backing.read(tag.offset, 10))
        return {f"{TABLES[tag.name]}_limit": limit, f"{TABLES[tag.name]}_base": base}
    return {}


def _single(tag: Tag) -> dict[str, int]:
    """The register that a tag with a number holds."""
    second = tag.indices[1] if len(tag.indices) > 1 else -1
    value = tag.value & (1 << 64) - 1
    if tag.name in SINGLE and second < 0:
        return {SINGLE[tag.name]: value}
    if tag.name == "CR64" and 0 <= second < len(CONTROL):
        return {CONTROL[second]: value}
    if tag.name in TABLES and 0 <= second < 3:
        return {f"{TABLES[tag.name]}_{('limit', 'base', 'high')[second]}": value & 0xFFFFFFFF}
    if tag.name == "S" and 0 <= second < len(SEGMENTS):
        return {SEGMENTS[second]: value & 0xFFFF}
    if tag.name == "S.base64" and 0 <= second < len(SEGMENTS):
        return {f"{SEGMENTS[second]}_base": value}
    return {}
