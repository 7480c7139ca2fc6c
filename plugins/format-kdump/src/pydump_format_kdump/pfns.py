"""Which pages a dump holds, and which of them each file of a split dump."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pydump.errors import PlanError, UnsupportedError
from pydump.model.memory import Ranges
from pydump.model.plan import Plan


def first_pfn(plan: Plan) -> int:
    """The page that bit 0 of the bitmaps stands for: that at phys_base where the user wants it, and else page 0.

    Source: makedumpfile.h, ARCH_PFN_OFFSET under __arm__.

    Raises:
        UnsupportedError: Pages of this guest cannot be counted from phys_base.
    """
    guest, block_size = plan.guest, plan.guest.page_size or 0
    if plan.options.pfn_base == "zero":
        return 0
    if guest.arch != "arm":
        raise UnsupportedError(
            f"pages are counted from phys_base for arm guests only, and this one is {guest.arch or 'unknown'}",
            hint="leave --kdump-pfn-base out",
        )
    phys_base = guest.phys_base or 0
    if phys_base % block_size or guest.memory.start < phys_base:
        raise UnsupportedError(
            f"RAM begins at {guest.memory.start:#x}, and pages cannot be counted from phys_base {phys_base:#x}",
            hint="leave --kdump-pfn-base out",
        )
    return phys_base // block_size


def pfns(plan: Plan, ranges: Ranges) -> Ranges:
    """The pages that hold a byte of ``ranges``, as ranges of pfns counted from :func:`first_pfn`."""
    block_size = plan.guest.page_size or 0
    return Ranges(ranges.page_aligned(block_size).array // np.uint64(block_size) - np.uint64(first_pfn(plan)))


def dumped_pages(plan: Plan) -> Ranges:
    """The pages that have a descriptor. As makedumpfile has it, a lost page has one, which says so."""
    return pfns(plan, plan.readable()).union(pfns(plan, plan.unreadable))


def max_mapnr(plan: Plan) -> int:
    """The number of pages that the bitmaps have a bit for."""
    memory, block_size = plan.guest.memory, plan.guest.page_size or 0
    return memory.end // block_size if plan.compat == "qemu" else memory.max_mapnr(block_size) - first_pfn(plan)


def part_pfns(plan: Plan) -> tuple[int, int]:
    """The first pfn of a part, and the one after its last."""
    assert plan.part is not None
    block_size, first = plan.guest.page_size or 0, first_pfn(plan)
    return plan.part[0] // block_size - first, plan.part[1] // block_size - first


def numbers(pages: Ranges, among: Ranges) -> Ranges:
    """Where ``pages`` stand among those of ``among``, which holds them all."""
    sizes = among.array[:, 1] - among.array[:, 0]
    which = np.searchsorted(among.array[:, 0], pages.array[:, 0], side="right") - 1
    shift = (np.cumsum(sizes) - sizes)[which] - among.array[which, 0]
    return Ranges(pages.array + shift[:, None])


def split(plan: Plan, n: int) -> Sequence[Plan]:
    """The plans of ``n`` files, which hold about as many pages each.

    Every page below max_mapnr is in one of them, as readers expect. Source: makedumpfile, writeout_dumpfile() and
    reassemble_kdump_header().

    Raises:
        PlanError: There are fewer pages than files, or QEMU's bytes are wanted.
    """
    if plan.compat == "qemu":
        raise PlanError("QEMU writes one file", hint="leave --split or --compat out")
    dumped, block_size, first = dumped_pages(plan), plan.guest.page_size or 0, first_pfn(plan)
    if dumped.size < n:
        raise PlanError(f"the dump has {dumped.size} pages, which are too few for {n} files")
    starts = dumped.array[:, 0]
    ends = np.cumsum(dumped.array[:, 1] - starts)
    ranks = np.arange(1, n, dtype=np.uint64) * np.uint64(dumped.size) // np.uint64(n)
    which = np.searchsorted(ends, ranks, side="right")
    before = np.concatenate([np.zeros(1, np.uint64), ends])[which]
    cuts = [0, *(starts[which] + ranks - before).tolist(), max_mapnr(plan)]
    places = [(first + pfn) * block_size for pfn in cuts]
    return [replace(plan, part=part) for part in zip(places, places[1:], strict=False)]
