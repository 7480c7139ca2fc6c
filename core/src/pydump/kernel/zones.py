"""Counts the free pages that the kernel's own lists hold: what the struct pages say must agree with it.

Source: struct zone, struct free_area and struct pglist_data in include/linux/mmzone.h of the Linux kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pydump.errors import PydumpError
from pydump.kernel.kallsyms import Kallsyms
from pydump.kernel.memory import KernelMemory

#: Zones of a node, nodes of a machine, and migrate types that are believed.
MAX_ZONES: Final = 16
MAX_NODES: Final = 1024
MAX_TYPES: Final = 64
#: Bytes of struct free_area that are believed: it has a list head for each migrate type, and a count.
MAX_AREA: Final = 4096


def free_pages(kernel: KernelMemory, symbols: Kallsyms | None = None) -> int | None:
    """The pages in the free lists of all zones.

    Args:
        kernel: The guest kernel's memory.
        symbols: Its symbols, for kernels whose VMCOREINFO does not name their nodes.

    Returns:
        How many, or None where VMCOREINFO does not lead to the zones or they cannot be read.
    """
    try:
        return _count(kernel, symbols)
    except PydumpError:  # a part of the structures is not in the dump
        return None


def _count(kernel: KernelMemory, symbols: Kallsyms | None) -> int | None:
    info = kernel.info
    zone_size, area_size = info.size("zone"), info.size("free_area")
    list_size, n_types = info.size("list_head"), info.length("free_area.free_list")
    zones_at, n_zones_at = info.offset("pglist_data.node_zones"), info.offset("pglist_data.nr_zones")
    areas_at, lists_at = info.offset("zone.free_area"), info.offset("free_area.free_list")
    n_orders = info.length("zone.free_area")
    if (
        not zone_size
        or not area_size
        or area_size > MAX_AREA
        or not list_size
        or n_types is None
        or zones_at is None
        or n_zones_at is None
        or areas_at is None
        or lists_at is None
        or n_orders is None
        or not 0 < n_orders <= 64
        or not 0 < n_types <= MAX_TYPES
    ):
        return None
    # nr_free stands right behind the lists, and has no key of its own.
    n_free_at = lists_at + n_types * list_size
    total, n_nodes = 0, 0
    for node in _nodes(kernel, symbols):
        n_nodes += 1
        n_zones = int.from_bytes(kernel.read(node + n_zones_at, 4), kernel.byte_order)
        if n_zones > MAX_ZONES:
            return None
        for zone in range(node + zones_at, node + zones_at + n_zones * zone_size, zone_size):
            areas = kernel.read(zone + areas_at, n_orders * area_size)
            for order in range(n_orders):
                at = order * area_size + n_free_at
                total += int.from_bytes(areas[at : at + kernel.word_size], kernel.byte_order) << order
    return total if n_nodes else None


def _nodes(kernel: KernelMemory, symbols: Kallsyms | None) -> Iterator[int]:
    """The vaddr of each node's struct pglist_data."""
    info = kernel.info
    single = info.symbol("contig_page_data")
    if single is not None:
        yield single
        return
    table = info.symbol("node_data")
    if table is None and symbols is not None:
        table = symbols.address("node_data")
    if table is None:
        return
    count = info.length("node_data")
    if count is None:
        count = _nodes_online(kernel)
    nodes = kernel.read_array(table, kernel.word, min(count, MAX_NODES)).tolist()
    yield from dict.fromkeys(node for node in nodes if node)


def _nodes_online(kernel: KernelMemory) -> int:
    """One past the highest node that is in use."""
    mask, size = kernel.symbol("node_online_map"), kernel.info.size("nodemask_t")
    if mask is None or not size or size > MAX_NODES // 8:
        return 1
    words = kernel.read_array(mask, kernel.word, size // kernel.word_size).tolist()
    return max(((i * 8 * kernel.word_size + int(word).bit_length()) for i, word in enumerate(words) if word), default=1)
