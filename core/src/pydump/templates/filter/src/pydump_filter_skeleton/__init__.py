"""Skeleton pages: a filter that leaves out the first MiB of each RAM block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydump.hookspecs import hookimpl
from pydump.interfaces.filter import Classified, Filter
from pydump.model.memory import Ranges

if TYPE_CHECKING:
    from pydump.interfaces.arch import Arch
    from pydump.interfaces.image import MemoryImage
    from pydump.model.guest import Guest

#: Bytes that are left out of each block.
SIZE = 1 << 20


class SkeletonFilter(Filter):
    """Knows one class of pages, by where they lie."""

    name: ClassVar[str] = "skeleton"
    classes: ClassVar[Mapping[str, str]] = {"skeleton": "the first MiB of each RAM block"}

    @classmethod
    def knows(cls, guest: Guest) -> bool:
        """Every guest has RAM; a filter that reads the guest's own tables asks for what leads to them."""
        return True

    @classmethod
    def classify(cls, source: MemoryImage, guest: Guest, arch: type[Arch]) -> Classified:
        page = guest.page_size or 4096
        # Whole pages only. To follow the guest's own tables, see pydump.kernel.memory.KernelMemory.
        starts = [(block.paddr + page - 1) // page * page for block in guest.memory]
        ends = [min(start + SIZE, block.end) // page * page for start, block in zip(starts, guest.memory, strict=True)]
        return Classified({"skeleton": Ranges.of(zip(starts, ends, strict=True))})


@hookimpl
def pydump_register_filters() -> Sequence[type[Filter]]:
    """``--exclude skeleton``."""
    return [SkeletonFilter]
