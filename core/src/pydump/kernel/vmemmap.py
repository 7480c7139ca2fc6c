"""Finds the struct pages of a Linux guest: which pfns have one, and where it lies.

Source: include/linux/mmzone.h and mm/sparse.c of the Linux kernel (mem_section, section_mem_map); mm/mm_init.c
(alloc_node_mem_map); kernel/vmcore_info.c for the keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Final

from pydump.errors import PlanError, PydumpError
from pydump.kernel.memory import KernelMemory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pydump.interfaces.arch import Arch

#: Bits of section_mem_map that are not part of the address; Linux keeps so many free on every architecture.
SECTION_FLAGS: Final = 0x3F
#: SECTION_MARKED_PRESENT and SECTION_HAS_MEM_MAP.
SECTION_PRESENT: Final = 0x3
#: Bytes of struct page that are believed: it has 32 to 64 in most kernels, and some more where debugging adds fields.
MIN_STRUCT_PAGE, MAX_STRUCT_PAGE = 16, 1024
#: log2 of the most bytes of address space that a kernel has sections for.
MAX_PHYSMEM_BITS: Final = 57
#: Roots of mem_section that are followed, each of which covers 16 GiB on x86_64; and sections in all of them.
MAX_ROOTS: Final = 1 << 14
MAX_SECTIONS: Final = 1 << 22
#: Runs of struct pages that do not continue each other; with a virtual memmap there is one.
MAX_RUNS: Final = 1 << 16
#: Pages between two RAM blocks whose struct pages are looked at with those of the blocks.
MAX_GAP: Final = 1 << 16
#: Sections whose struct pages must translate before a reading is believed.
CHECKED_SECTIONS: Final = 4


@dataclass(frozen=True, slots=True)
class StructPages:
    """Struct pages that lie side by side in the kernel's virtual memory.

    Attributes:
        pfn: The first page that they describe.
        count: How many there are.
        vaddr: Where the first one lies.
    """

    pfn: int
    count: int
    vaddr: int


def struct_pages(kernel: KernelMemory, arch: type[Arch]) -> tuple[StructPages, ...]:
    """All struct pages of RAM, ascending in pfn, with those of gaps that are shorter than 256 MiB.

    Args:
        kernel: The guest kernel's memory.
        arch: Its architecture, for what kernels before 5.13 do not state.

    Raises:
        PlanError: VMCOREINFO does not lead to them, or where it leads there are none.
        ReadError: The tables that lead to them cannot be read.
    """
    info = kernel.info
    size = struct_page_size(kernel)
    if None not in (info.symbol("mem_section"), info.offset("mem_section.section_mem_map"), info.size("mem_section")):
        return _in_ram(kernel, _sparsemem(kernel, arch, size), size)
    if info.symbol("mem_map") is not None:
        return _in_ram(kernel, _flatmem(kernel, size), size)
    raise PlanError(
        "VMCOREINFO names neither mem_section nor mem_map",
        hint="this kernel's memory model (discontigmem, before Linux 5.14) is not supported",
    )


def struct_page_size(kernel: KernelMemory) -> int:
    """Bytes of a struct page.

    Raises:
        PlanError: VMCOREINFO does not state it, or what it states cannot be.
    """
    size = kernel.info.size("page")
    if size is None or not MIN_STRUCT_PAGE <= size <= MAX_STRUCT_PAGE:
        stated = "does not state the size of struct page" if size is None else f"says that struct page has {size} bytes"
        raise PlanError(f"VMCOREINFO {stated}", hint="without it, the guest's pages cannot be told apart")
    return size


def _sparsemem(kernel: KernelMemory, arch: type[Arch], size: int) -> tuple[StructPages, ...]:
    for section_bits, extreme in _models(kernel, arch):
        per_section = 1 << section_bits - (kernel.page_size.bit_length() - 1)
        try:
            found = _join(_sections(kernel, extreme, per_section, size), per_section, size)
        except PydumpError:  # the wrong model leads anywhere
            continue
        if found and all(kernel.space.translate(run.vaddr) is not None for run in found[:CHECKED_SECTIONS]):
            return found
    raise PlanError("no struct pages lie where mem_section says", hint="VMCOREINFO is damaged or of another boot")


def _models(kernel: KernelMemory, arch: type[Arch]) -> Iterator[tuple[int, bool]]:
    """``(log2 of a section's bytes, is mem_section an array of pointers)`` for each way that LENGTH fits."""
    info = kernel.info
    length, stated_section, stated_physmem = (
        info.length("mem_section"),
        info.number("SECTION_SIZE_BITS"),
        info.number("MAX_PHYSMEM_BITS"),
    )
    section_bits = arch.section_size_bits if stated_section is None else (stated_section,)
    physmem_bits = arch.max_physmem_bits if stated_physmem is None else (stated_physmem,)
    for section, physmem in product(section_bits, physmem_bits):
        if not kernel.page_size.bit_length() <= section <= physmem <= MAX_PHYSMEM_BITS:
            continue
        n_sections = 1 << physmem - section
        if length in (None, -(-n_sections // _per_root(kernel))):
            yield section, True
        if length == n_sections:
            yield section, False


def _per_root(kernel: KernelMemory) -> int:
    """Structs mem_section in the page that an element of an array of pointers points to."""
    return max(1, kernel.page_size // (kernel.info.size("mem_section") or kernel.page_size))


def _sections(
    kernel: KernelMemory, extreme: bool, per_section: int, size: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The number of each present section, and the vaddr of its first struct page."""
    import numpy as np

    info = kernel.info
    table, section_size = info.symbol("mem_section"), info.size("mem_section")
    offset, length = info.offset("mem_section.section_mem_map"), info.length("mem_section")
    assert table is not None and section_size and offset is not None
    kind = kernel.struct("mem_section", section_size, {"map": (kernel.word, offset)})
    if extreme:
        roots = kernel.read_array(table, kernel.word, length or kernel.page_size // kernel.word_size)
        used = np.flatnonzero(roots)
        per_root = _per_root(kernel)
        if len(used) > MAX_ROOTS or len(used) * per_root > MAX_SECTIONS:
            raise PlanError(f"mem_section has {len(used)} roots", hint="VMCOREINFO is damaged or of another boot")
        parts = [kernel.read_array(int(roots[i]), kind, per_root)["map"] for i in used.tolist()]
        numbers = (used[:, None] * per_root + np.arange(per_root)).reshape(-1)
        coded = np.concatenate(parts) if parts else np.zeros(0, kernel.word)
    else:
        coded = kernel.read_array(table, kind, length or 0)["map"]
        numbers = np.arange(len(coded))
    coded = coded.astype(np.uint64)
    present = coded & np.uint64(SECTION_PRESENT) == SECTION_PRESENT
    numbers = numbers[present].astype(np.uint64)
    # What is stored is the address less that of pfn 0, so the sum may pass the end of the address space.
    first = numbers * np.uint64(per_section) * np.uint64(size)
    vaddr = (coded[present] & ~np.uint64(SECTION_FLAGS)) + first
    return numbers, vaddr & np.uint64((1 << 8 * kernel.word_size) - 1)


def _join(
    sections: tuple[NDArray[np.uint64], NDArray[np.uint64]], per_section: int, size: int
) -> tuple[StructPages, ...]:
    """Sections whose struct pages continue each other, made one run."""
    import numpy as np

    numbers, vaddrs = sections
    if not len(numbers):
        return ()
    step = np.uint64(per_section * size)
    breaks = np.flatnonzero((numbers[1:] != numbers[:-1] + np.uint64(1)) | (vaddrs[1:] != vaddrs[:-1] + step)) + 1
    if len(breaks) >= MAX_RUNS:
        raise PlanError(f"struct pages lie in {len(breaks) + 1} places", hint="mem_section is damaged")
    first = [0, *breaks.tolist()]
    last = [*breaks.tolist(), len(numbers)]
    return tuple(
        StructPages(int(numbers[a]) * per_section, (b - a) * per_section, int(vaddrs[a]))
        for a, b in zip(first, last, strict=True)
    )


def _in_ram(kernel: KernelMemory, places: tuple[StructPages, ...], size: int) -> tuple[StructPages, ...]:
    """What of ``places`` describes RAM: how many struct pages there are is the guest's word, and RAM the source's."""
    import numpy as np

    page = np.uint64(kernel.page_size)
    ram = kernel.physical.ram.page_aligned(kernel.page_size).array // page
    far = ram[1:, 0] - ram[:-1, 1] >= MAX_GAP
    first, last = ram[np.append(True, far)[: len(ram)], 0], ram[np.append(far, True)[: len(ram)], 1]
    found = []
    for place in places:
        a, b = np.searchsorted(last, place.pfn, "right"), np.searchsorted(first, place.pfn + place.count)
        for start, end in zip(first[a:b].tolist(), last[a:b].tolist(), strict=True):
            pfn = max(start, place.pfn)
            count = min(end, place.pfn + place.count) - pfn
            found.append(StructPages(pfn, count, place.vaddr + (pfn - place.pfn) * size))
    return tuple(found)


def _flatmem(kernel: KernelMemory, size: int) -> tuple[StructPages, ...]:
    """One array, from mem_map to the end of the only node.

    node_mem_map describes node_start_pfn; mem_map may begin before it, at pfn 0 on a PC.
    """
    info = kernel.info
    mem_map, node = info.symbol("mem_map"), info.symbol("contig_page_data")
    names = ("node_mem_map", "node_start_pfn", "node_spanned_pages")
    at = [info.offset(f"pglist_data.{name}") for name in names]
    if mem_map is None or node is None or None in at:
        raise PlanError("VMCOREINFO does not state where mem_map begins and ends", hint="this kernel is not supported")
    first = kernel.read_word(mem_map)
    node_map, start, spanned = (kernel.read_word(node + (offset or 0)) for offset in at)
    before, rest = divmod(node_map - first, size)
    if rest or not 0 <= before <= start or kernel.space.translate(first) is None:
        raise PlanError("no struct pages lie where mem_map says", hint="VMCOREINFO is damaged or of another boot")
    return (StructPages(start - before, before + spanned, first),)
