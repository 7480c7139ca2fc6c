"""Reads VMware states: memory by the regions of the state file, and registers."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, NamedTuple

from pydump.errors import FormatError, UnsupportedError
from pydump.interfaces.backing import Backing
from pydump.interfaces.pieces import PiecesImage, held_pieces
from pydump.model.guest import Cpu, Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump_format_vmware.cpus import read_cpus
from pydump_format_vmware.tags import Tags, read_groups

PAGE_SHIFT: Final = 12
#: Where a PC's RAM ends below 4 GiB, where the state does not say it.
LOW_END: Final = 3 << 30
#: Where the rest of it begins.
HIGH_BEGIN: Final = 4 << 30
#: VMware's states have a few regions.
MAX_REGIONS: Final = 4096
#: No guest has more RAM.
MAX_RAM: Final = 1 << 47
EM_X86_64: Final = 62


class _Region(NamedTuple):
    """A run of RAM: where it is in the guest and in the file, in bytes."""

    paddr: int
    offset: int
    size: int


def open_image(state: Backing, sibling: Callable[[str], Backing | None]) -> VmwareImage:
    """Open a state and, where memory is not in it, the ``.vmem`` beside it.

    Args:
        state: The ``.vmss`` or ``.vmsn`` file.
        sibling: Opens the file of a name in its directory.

    Raises:
        FormatError: It is damaged, or its memory is nowhere.
        UnsupportedError: Its memory is compressed.
    """
    groups = read_groups(state)
    faults: list[str] = []
    regions, block = _read_memory(state, groups, faults)
    cpus: tuple[Cpu, ...] = ()
    if "cpu" in groups:
        tags = Tags(state, groups["cpu"])
        cpus = read_cpus(state, tags)
        if tags.fault:
            faults.append(f"group cpu: {tags.fault}")
    if block is not None:
        offset, size = block
        return VmwareImage(state, state, _placed(regions, offset, size), cpus, faults)
    name = os.path.splitext(os.path.basename(state.path))[0] + ".vmem"
    memory = sibling(name)
    if memory is None:
        raise FormatError(
            state.path, f"guest memory is not in it, and there is no {name}", hint="put the .vmem beside the state file"
        )
    return VmwareImage(state, memory, _placed(regions, 0, memory.size), cpus, faults)


def _read_memory(
    state: Backing, groups: dict[str, int], faults: list[str]
) -> tuple[list[_Region], tuple[int, int] | None]:
    """The regions that the group ``memory`` has, and offset and size of memory in the state file itself.

    Raises:
        FormatError: The regions make no sense.
        UnsupportedError: Memory is compressed.
    """
    if "memory" not in groups:
        raise FormatError(state.path, "it has no group memory, and so no guest memory")
    tags = Tags(state, groups["memory"])
    block = None
    count = 0
    fields: dict[str, dict[int, int]] = {"regionPPN": {}, "regionPageNum": {}, "regionSize": {}}
    for tag in tags:
        if tag.name == "Memory" and tag.is_block:
            if tag.compressed:
                raise UnsupportedError(
                    f"{state.path}: guest memory is compressed in it, in a way that nobody describes",
                    hint="suspend the guest with a .vmem file",
                )
            block = tag.offset, tag.size
        elif tag.name == "regionsCount":
            count = tag.value
        elif tag.name in fields and len(tag.indices) == 1:
            fields[tag.name][tag.indices[0]] = tag.value << PAGE_SHIFT
    if tags.fault:
        faults.append(f"group memory: {tags.fault}")
    paddrs, offsets, sizes = fields.values()
    indices = [i for i in range(min(count, MAX_REGIONS)) if i in paddrs and i in offsets and i in sizes]
    if len(indices) < count:
        faults.append(f"{count} regions are stated, and {len(indices)} described")
    regions = [_Region(paddrs[i], offsets[i], sizes[i]) for i in indices if sizes[i]]
    if sum(region.size for region in regions) > MAX_RAM or any(region.paddr >= 1 << 52 for region in regions):
        raise FormatError(state.path, "its regions are larger than any guest")
    return regions, block


def _placed(regions: list[_Region], offset: int, size: int) -> list[_Region]:
    """The regions, with offsets in the file of memory; where there are none, those of a PC with so much RAM.

    Args:
        regions: What the state has.
        offset: Where memory begins in its file.
        size: Bytes of it.
    """
    if not regions:
        low = min(size, LOW_END)
        regions = [_Region(0, 0, low), _Region(HIGH_BEGIN, low, size - low)]
    return [_Region(region.paddr, region.offset + offset, region.size) for region in regions if region.size]


class VmwareImage(PiecesImage):
    """A VMware state.

    Args:
        state: The ``.vmss`` or ``.vmsn`` file.
        memory: The file that holds guest memory.
        regions: Where in it.
        cpus: The registers.
        faults: What is wrong with the state, a line each.
    """

    def __init__(
        self, state: Backing, memory: Backing, regions: list[_Region], cpus: tuple[Cpu, ...], faults: list[str]
    ) -> None:
        pieces, self._lost = held_pieces(memory, ((region.paddr, region.offset, region.size) for region in regions))
        ram = Ranges.of((region.paddr, region.paddr + region.size) for region in regions)
        super().__init__(memory, pieces, MemoryMap.of((start, end - start) for start, end in ram))
        self._state = state
        self._cpus = cpus
        self._n_regions = len(regions)
        warnings = [*faults]
        if ram.size < sum(region.size for region in regions):
            warnings.append("regions overlap: where they do, the one that begins first is read")
        if self._lost:
            warnings.append(f"{memory.path} is cut off: {self._lost.size} bytes of guest memory are lost")
        if not cpus:
            warnings.append("the state has no registers of an x86-64 CPU")
        self._warnings = (*state.warnings, *(memory.warnings if memory is not state else ()), *warnings)

    def guest(self) -> Guest:
        if not self._cpus:
            return Guest(self._memory)
        return Guest(self._memory, machine=EM_X86_64, byte_order="little", elf_class=64, cpus=self._cpus)

    def unreadable(self) -> Ranges:
        return self._lost

    def describe(self) -> tuple[tuple[str, str], ...]:
        count = self._n_regions
        return (
            ("format", f"VMware state, {count} region{'' if count == 1 else 's'}"),
            ("memory in", self._backing.path),
        )

    def warnings(self) -> tuple[str, ...]:
        return self._warnings

    def close(self) -> None:
        super().close()
        self._state.close()
