"""Virtual addresses for the segments of a dump: those of the kernel's page tables, or those that the image states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydump.errors import PlanError
from pydump.interfaces.arch import Arch
from pydump.interfaces.image import KnowsVaddrs, MemoryImage
from pydump.kernel.memory import KernelMemory
from pydump.model.guest import Guest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: A page that is mapped at more places than this gets one of them: x86_64's ESPFIX area maps one page 65,536 times.
MAX_ALIASES: Final = 64
#: Differences of vaddr and paddr that a kernel's linear mappings have: that of RAM, and of the kernel's image.
MAX_LINEAR: Final = 4


def kernel_mappings(image: MemoryImage, guest: Guest, arch: type[Arch]) -> tuple[NDArray[np.uint64], tuple[str, ...]]:
    """The kernel's virtual mappings as rows of vaddr, paddr and size, without heaps of aliases of one page.

    Returns:
        Them, and warnings, a line each.
    """
    import numpy as np

    kernel = KernelMemory.of(image, guest, arch)
    found = kernel.space.mappings()
    rows = np.fromiter((n for m in found for n in (m.vaddr, m.paddr, m.size)), np.uint64).reshape(-1, 3)
    missing = kernel.physical.missing
    warnings = (f"{missing}: what it maps has no virtual address",) if missing else ()
    if not len(rows):
        why = f": {missing}" if missing else ""
        raise PlanError(f"the guest's page tables map nothing{why}", hint="leave --paging out")
    _, first, which, count = np.unique(rows[:, 1:], axis=0, return_index=True, return_inverse=True, return_counts=True)
    keep = count[which.reshape(-1)] <= MAX_ALIASES
    keep[first] = True
    return rows[keep], warnings


def linear_mappings(image: MemoryImage) -> NDArray[np.uint64] | None:
    """The virtual addresses that the image states of RAM, if they are those of one or two linear mappings.

    gdb, and drgn for some architectures, know no others. What a QEMU dump with paging=true has is left to --paging:
    makedumpfile and Volatility take no ELF file with the mappings of page tables.
    """
    import numpy as np

    rows = image.mappings() if isinstance(image, KnowsVaddrs) else None
    if rows is None:
        return None
    offsets = np.sort(rows[:, 0] - rows[:, 1])  # np.unique would load numpy.ma
    return rows if len(rows) and np.count_nonzero(np.diff(offsets)) < MAX_LINEAR else None
