"""What of a Linux guest must never be left out of a dump: without it no reader finds its way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydump.errors import PydumpError
from pydump.model.memory import Ranges

if TYPE_CHECKING:
    from pydump.interfaces.arch import Arch
    from pydump.kernel.kallsyms import Kallsyms
    from pydump.kernel.memory import KernelMemory
    from pydump.kernel.vmemmap import StructPages
    from pydump.model.guest import Guest

#: Symbols of VMCOREINFO whose page every reader needs.
NEEDED = (
    "swapper_pg_dir",
    "init_top_pgt",
    "init_uts_ns",
    "mem_section",
    "mem_map",
    "contig_page_data",
    "node_data",
    "prb",
    "log_buf",
    "kallsyms_names",
    "kallsyms_offsets",
    "kallsyms_token_table",
    "kallsyms_token_index",
    "_stext",
)


def must_keep(
    kernel: KernelMemory,
    guest: Guest,
    arch: type[Arch],
    places: tuple[StructPages, ...],
    symbols: Kallsyms | None,
) -> Ranges:
    """Whole pages that must stay: page tables that were walked, struct pages, kernel text, and what readers start from.

    Args:
        kernel: The guest kernel's memory; what is mapped nowhere, or not held, is left out of the result.
        guest: The completed facts.
        arch: The guest's architecture.
        places: Where the struct pages lie.
        symbols: The kernel's symbols, where they could be read.
    """
    found: list[tuple[int, int]] = []
    struct_page = kernel.info.size("page") or 0
    for place in places:
        found += _mapped(kernel, place.vaddr, place.count * struct_page)
    for vaddr, size in _places(kernel, symbols):
        found += _mapped(kernel, vaddr, size)
    for vaddr, size in arch.kept_vaddrs(guest):
        found += _mapped(kernel, vaddr, size)
    found += arch.kept_paddrs(guest)
    # Last, when the tables that lead to all of the above have been read.
    found += kernel.physical.tables
    return Ranges.of(found).page_aligned(kernel.page_size)


def _places(kernel: KernelMemory, symbols: Kallsyms | None) -> Iterator[tuple[int, int]]:
    """``(vaddr, size)`` of what VMCOREINFO and the symbols name."""
    for name in NEEDED:
        vaddr = kernel.symbol(name)
        if vaddr is not None:
            yield vaddr, kernel.word_size
    start = kernel.symbol("_stext")
    end = symbols.address("_etext") if symbols is not None else None
    if start is not None and end is not None and start < end:
        yield start, end - start


def _mapped(kernel: KernelMemory, vaddr: int, size: int) -> list[tuple[int, int]]:
    """``(start, end)`` in paddr of what a range of vaddr maps."""
    try:
        return [(run.paddr, run.paddr + run.size) for run in kernel.runs(vaddr, size)]
    except PydumpError:  # a part of the tables cannot be read
        return []
