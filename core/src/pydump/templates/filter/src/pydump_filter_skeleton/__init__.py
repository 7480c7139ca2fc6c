"""Skeleton pages: a filter that leaves out the beginning of each RAM block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydump.hookspecs import hookimpl
from pydump.interfaces.filter import Classified, Filter
from pydump.model.memory import Ranges
from pydump.options import option

if TYPE_CHECKING:
    from pydump.interfaces.arch import Arch
    from pydump.interfaces.image import MemoryImage
    from pydump.model.guest import Guest


@dataclass(frozen=True, slots=True)
class SkeletonOptions:
    """How much is left out: ``--skeleton-size``."""

    size: int = option(1, help="MiB at the beginning of each RAM block", low=1)


class SkeletonFilter(Filter):
    """Knows one class of pages, by where they lie."""

    name: ClassVar[str] = "skeleton"
    classes: ClassVar[Mapping[str, str]] = {"skeleton": "the beginning of each RAM block"}
    Options: ClassVar[type] = SkeletonOptions

    @classmethod
    def knows(cls, guest: Guest) -> bool:
        """Every guest has RAM; a filter that reads the guest's own tables asks for what leads to them."""
        return True

    @classmethod
    def classify(cls, source: MemoryImage, guest: Guest, arch: type[Arch], options: Any = None) -> Classified:
        size = (options or SkeletonOptions()).size << 20
        page = guest.page_size or 4096
        # Whole pages only. To follow the guest's own tables, see pydump.kernel.memory.KernelMemory.
        starts = [(block.paddr + page - 1) // page * page for block in guest.memory]
        ends = [min(start + size, block.end) // page * page for start, block in zip(starts, guest.memory, strict=True)]
        return Classified({"skeleton": Ranges.of(zip(starts, ends, strict=True))})


@hookimpl
def pydump_register_filters() -> Sequence[type[Filter]]:
    """``--exclude skeleton``."""
    return [SkeletonFilter]
