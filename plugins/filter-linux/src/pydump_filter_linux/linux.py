"""Sorts the pages of a Linux guest by its struct pages, and checks the result before anything is left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pydump.errors import PydumpError
from pydump.interfaces.filter import Classified, Filter
from pydump.model.check import Check

if TYPE_CHECKING:
    from pydump.interfaces.arch import Arch
    from pydump.interfaces.image import MemoryImage
    from pydump.kernel.classes import Classes
    from pydump.kernel.kallsyms import Kallsyms
    from pydump.kernel.memory import KernelMemory
    from pydump.model.guest import Guest
    from pydump.model.memory import Ranges

#: How far the free pages found may be from the kernel's own count: a guest that crashed inside the allocator, or is
#: not paused, has a few blocks in neither place.
TOLERANCE: Final = 0.01


class LinuxFilter(Filter):
    """Linux 4.5 and later."""

    name: ClassVar[str] = "linux"
    classes: ClassVar[Mapping[str, str]] = {
        "cache": "page cache without private data",
        "cache-private": "page cache with private data, such as file systems attach to it",
        "user": "memory of programs: anonymous and hugetlb pages",
        "free": "free pages, and pages that the guest has not accepted from its host yet",
        "hwpoison": "pages with a hardware error (always left out)",
        "offline": "pages given back to the host, as by a balloon (always left out)",
    }

    @classmethod
    def knows(cls, guest: Guest) -> bool:
        """Has it a Linux kernel's VMCOREINFO?"""
        return guest.vmcoreinfo is not None and guest.vmcoreinfo.osrelease is not None

    @classmethod
    def classify(cls, source: MemoryImage, guest: Guest, arch: type[Arch], options: Any = None) -> Classified:
        from pydump.kernel.classes import classify
        from pydump.kernel.memory import KernelMemory
        from pydump.kernel.pages import PageClass, PageRules
        from pydump.kernel.vmemmap import struct_pages
        from pydump_filter_linux.keep import must_keep

        kernel = KernelMemory.of(source, guest, arch)
        rules = PageRules.of(kernel)
        places = struct_pages(kernel, arch)
        found = classify(kernel, rules, places, guest.memory.ranges())
        symbols = _symbols(kernel)
        keep = must_keep(kernel, guest, arch, places, symbols)
        ranges = {
            "cache": found.of(PageClass.CACHE),
            "cache-private": found.of(PageClass.CACHE_PRIVATE),
            "user": found.of(PageClass.USER),
            "free": found.of(PageClass.FREE | PageClass.UNACCEPTED),
            "hwpoison": found.of(PageClass.HWPOISON),
            "offline": found.of(PageClass.OFFLINE),
        }
        checks = (_free(kernel, symbols, found), _shapes(found), _kept(ranges, keep))
        warnings = []
        if found.n_unreadable:
            warnings.append(
                f"{found.n_unreadable} of {found.n_pages} struct pages cannot be read; their pages are kept"
            )
        return Classified(ranges, frozenset({"hwpoison", "offline"}), keep, checks, tuple(warnings))


def _symbols(kernel: KernelMemory) -> Kallsyms | None:
    from pydump.kernel.kallsyms import Kallsyms

    try:
        return Kallsyms.read(kernel)
    except PydumpError:  # before Linux 6.0, or not in the dump
        return None


def _free(kernel: KernelMemory, symbols: Kallsyms | None, found: Classes) -> Check:
    """The struct pages of free blocks add up to what the zones' free lists say."""
    from pydump.kernel.zones import free_pages

    listed = free_pages(kernel, symbols)
    if listed is None:
        return Check("free pages", True, f"{found.n_free} found; the zone lists cannot be read to compare")
    # Where struct pages are missing, so may free ones be.
    passed = listed - found.n_unreadable - _slack(listed) <= found.n_free <= listed + _slack(listed)
    return Check("free pages", passed, f"{found.n_free} found, {listed} in the zone lists")


def _slack(listed: int) -> int:
    return max(64, int(listed * TOLERANCE))


def _shapes(found: Classes) -> Check:
    """Orders, alignment and places of blocks and compound pages can be."""
    passed = found.n_odd <= max(64, found.n_pages * TOLERANCE)
    return Check("shapes", passed, f"{found.n_odd} of {found.n_pages} struct pages have an impossible order")


def _kept(classes: Mapping[str, Ranges], keep: Ranges) -> Check:
    """Nothing was chosen that every reader needs."""
    wrong = {name: chosen.intersect(keep) for name, chosen in classes.items()}
    size = sum(ranges.size for ranges in wrong.values())
    first = next((f"; the first is at paddr {next(iter(r))[0]:#x}, {name}" for name, r in wrong.items() if r), "")
    return Check("pages that must stay", not size, f"{size} of {keep.size} bytes would be left out{first}")
