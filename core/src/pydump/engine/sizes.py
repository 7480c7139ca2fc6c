"""What each dump level would leave of a guest: pages, bytes, and an estimate of their compressed size."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from pydump.engine.exclude import LEVELS, MAX_LEVEL, ZERO, classes_of_level, classified
from pydump.errors import PlanError
from pydump.model.findings import LevelSize, SizeReport
from pydump.model.memory import Ranges

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydump.interfaces.arch import Arch
    from pydump.interfaces.filter import Classified
    from pydump.interfaces.image import MemoryImage
    from pydump.model.guest import Guest
    from pydump.registry import Registry

#: Pages of each part of memory that are compressed to learn how well it does.
SAMPLES: Final = 256


def run_sizes(source: MemoryImage, label: str, guest: Guest, arch: type[Arch], registry: Registry) -> SizeReport:
    """Find what every level would leave, without writing anything.

    Args:
        source: The memory.
        label: What the user called it.
        guest: The completed facts.
        arch: The guest's architecture.
        registry: What is installed.

    Returns:
        All levels; of a guest that does not say what its pages are, levels 0 and 1, and a warning.

    Raises:
        ReadError: Some of the memory cannot be read.
    """
    page = guest.page_size or 4096
    names = frozenset(name for names in LEVELS.values() for name in names) - {ZERO}
    numbers, unknown = range(MAX_LEVEL + 1), tuple[str, ...]()
    try:
        found = classified(source, guest, arch, names, registry)
    except PlanError as error:  # zero pages are found without the kernel
        found, numbers = [], range(2)
        unknown = (f"levels 0 and 1 only: {error}",)
    ram, lost = guest.memory.ranges(), source.unreadable()
    parts = list(_parts(ram.subtract(source.excluded()).subtract(lost), found))
    samples = [_sample(source, ranges, page) for _, ranges in parts]
    levels = []
    for level in numbers:
        dropped = classes_of_level(level)
        left = packed = 0
        for (classes, ranges), (zero, size) in zip(parts, samples, strict=True):
            if classes & dropped:
                continue
            data = ranges.size * (1 - zero)
            left += int(data if ZERO in dropped else ranges.size)
            packed += int(data * size)
        levels.append(LevelSize(level, tuple(sorted(dropped)), left // page, left, packed))
    sizes = tuple((name, ranges.size) for one in found for name, ranges in one.classes.items())
    checks = tuple(check for one in found for check in one.checks)
    warnings = (*source.warnings(), *unknown, *(warning for one in found for warning in one.warnings))
    lost_size = ram.intersect(lost).size
    return SizeReport(
        label, guest.memory.size, page, tuple(levels), sizes, checks, warnings, lost_size, source.more_lost()
    )


def _parts(held: Ranges, found: list[Classified]) -> Iterator[tuple[frozenset[str], Ranges]]:
    """Memory cut into parts whose pages are of the same classes; what is always left out is in none."""
    parts = [(frozenset[str](), held)]
    for one in found:
        for name, ranges in one.classes.items():
            inside = [(classes | {name}, part.intersect(ranges)) for classes, part in parts]
            outside = [(classes, part.subtract(ranges)) for classes, part in parts]
            parts = [(classes, part) for classes, part in (*outside, *inside) if part]
    always = frozenset(name for one in found for name in one.always)
    yield from (part for part in parts if not part[0] & always)


def _sample(source: MemoryImage, ranges: Ranges, page: int) -> tuple[float, float]:
    """The share of zero pages, and the compressed size of a byte in the others, from pages spread over ``ranges``."""
    n_pages = ranges.size // page
    n_zero = n_data = packed = 0
    buffer = bytearray(page)
    for paddr in _spread(ranges, page, min(SAMPLES, n_pages)):
        source.read_into(paddr, memoryview(buffer))
        if not any(buffer):
            n_zero += 1
            continue
        n_data += 1
        packed += min(page, len(zlib.compress(buffer, 1)))
    n = n_zero + n_data
    return n_zero / n if n else 0.0, packed / (n_data * page) if n_data else 0.0


def _spread(ranges: Ranges, page: int, count: int) -> Iterator[int]:
    """The paddr of ``count`` pages that lie evenly in ``ranges``."""
    import numpy as np

    if not count:
        return
    sizes = (ranges.array[:, 1] - ranges.array[:, 0]) // np.uint64(page)
    ends = np.cumsum(sizes)
    for index in ((2 * np.arange(count, dtype=np.uint64) + np.uint64(1)) * ends[-1] // np.uint64(2 * count)).tolist():
        which = int(np.searchsorted(ends, index, side="right"))
        before = int(ends[which - 1]) if which else 0
        yield int(ranges.array[which, 0]) + (index - before) * page
