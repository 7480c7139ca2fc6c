"""Pages of real guests that each dump level leaves out, and their logs, on memory that was cut down to what that takes.

``tests/data/filtering/PROVENANCE.md`` says where the memory comes from and which programs gave the counts.
"""

from __future__ import annotations

import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

import pydump
from pydump.engine.exclude import classes_of_level
from pydump.interfaces.filter import Classified
from pydump.kernel.log import format_record, read_log
from pydump.kernel.memory import KernelMemory
from pydump.registry import installed
from pydump_filter_linux import LinuxFilter

DATA = Path(__file__).parents[3] / "tests/data/filtering"
#: Pages of the cache, of programs, and free ones.
COUNTS = {
    "aarch64": (3982, 2424, 45613),
    "s390x": (4075, 2419, 49278),
    "ppc64": (271, 178, 2161),
    "riscv64": (3883, 2418, 36830),
    "i386": (4086, 2329, 18744),
}
#: Guests whose VMCOREINFO leads to the zone lists without the symbol table.
LISTED = {"s390x", "ppc64", "i386"}


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the memory of a guest, unpacked."""
    directory = tmp_path_factory.mktemp("filtering")

    def unpack(arch: str) -> Path:
        path = directory / arch
        if not path.exists():
            path.write_bytes(lzma.decompress((DATA / f"{arch}.kdump.xz").read_bytes()))
        return path

    return unpack


def classified(path: Path) -> tuple[Classified, int]:
    """The guest's pages by class, and the bytes of a page."""
    with pydump.open(path) as dump:
        guest = dump.guest
        assert guest.arch and guest.page_size
        return LinuxFilter.classify(dump.image, guest, installed().arch(guest.arch)), guest.page_size


@pytest.mark.parametrize("arch", COUNTS)
def test_each_class_has_the_pages_that_drgn_counts(arch: str, guests: Callable[[str], Path]) -> None:
    found, page = classified(guests(arch))
    cache, user, free = COUNTS[arch]
    sizes = {name: ranges.size // page for name, ranges in found.classes.items() if ranges}
    assert sizes == {"cache": cache, "user": user, "free": free}
    assert [check for check in found.checks if not check.passed] == []
    if arch in LISTED:
        assert found.checks[0].detail == f"{free} found, {free} in the zone lists"


@pytest.mark.parametrize("arch", COUNTS)
def test_each_level_leaves_out_the_classes_that_it_names(arch: str, guests: Callable[[str], Path]) -> None:
    found, page = classified(guests(arch))
    cache, user, free = COUNTS[arch]
    dropped = []
    for level in range(32):
        chosen = found.classes["hwpoison"]
        for name in classes_of_level(level) & set(found.classes):
            chosen = chosen.union(found.classes[name])
        dropped.append(chosen)
        assert chosen.size // page == cache * (level & 6 > 0) + user * (level & 8 > 0) + free * (level & 16 > 0)
        assert not chosen.intersect(found.keep)
    for a in range(32):
        for b in range(32):
            assert not dropped[a].subtract(dropped[a | b]), f"{a} leaves out what {a | b} keeps"


@pytest.mark.parametrize("arch", COUNTS)
def test_the_log_holds_what_the_console_showed(arch: str, guests: Callable[[str], Path]) -> None:
    with pydump.open(guests(arch)) as dump:
        kernel = KernelMemory.of(dump.image, dump.guest, installed().arch(arch))
        records = list(read_log(kernel))
    shown = (DATA / f"{arch}-console.txt").read_text().splitlines()
    lines = {line for record in records for line in format_record(record).splitlines()}
    # A console repeats the time on each line of a record; dmesg indents those below the first.
    below = {line.strip() for record in records for line in record.text.splitlines()[1:]}
    assert [line for line in shown if line not in lines and line.partition("] ")[2].strip() not in below] == []
    assert [record.seq for record in records] == list(range(len(records)))
