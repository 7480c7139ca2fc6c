"""Pages that each dump level leaves out of booted guests, and their logs, against other people's programs."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from judges import Tasks, crash, drgn_pages, drgn_task_structs, drgn_tasks, kdumpfile_pages, makedumpfile, newest
from lab.boot import Guest

import pydump
from pydump.engine.exclude import classes_of_level, exclude
from pydump.model.memory import MemoryMap, Ranges
from pydump.registry import installed
from pydump_filter_linux import LinuxFilter

Pydump = Callable[..., subprocess.CompletedProcess[str]]
#: Architectures whose pages drgn judges; makedumpfile reads a dump on its own architecture alone.
ARCHES = ("aarch64", "s390x", "ppc64", "riscv64")
#: A guest, and whether Debian's newest makedumpfile judges it: Debian 12's does not know Linux 6.10 and later.
JUDGED = (("x86_64", False), ("x86_64-rich", True))
#: How drgn is given a dump to walk struct pages in: libkdumpfile, its reader of kdumps, does not find ppc64's vmemmap,
#: and drgn follows no page tables of i386.
WALKED = {"ppc64": ("--format", "elf"), "i386": ("--format", "elf", "--paging")}


@pytest.fixture(scope="module")
def written(
    guest: Callable[[str], Guest], pydump: Pydump, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Our dump of a guest: as ELF, or as a kdump of a level."""
    directory = tmp_path_factory.mktemp("filtered")

    def make(arch: str, *options: str) -> Path:
        out = directory / "-".join((arch, *(option.strip("-") for option in options)))
        if not out.exists():
            pydump("dump", guest(arch).elf, out, *options)
        return out

    return make


def left_out(path: Path) -> tuple[MemoryMap, Ranges]:
    """The RAM of a filtered kdump, and what of it was left out."""
    with pydump.open(path) as dump:
        return dump.stated.memory, dump.image.excluded()


def chosen(path: Path, level: int) -> Ranges:
    """What pydump leaves out of a dump at a level."""
    with pydump.open(path) as dump:
        guest = dump.guest
        assert guest.arch
        found = exclude(
            dump.image,
            guest,
            installed().arch(guest.arch),
            classes_of_level(level),
            installed(),
            read_zeros=False,
            least=0,
            anyway=False,
        )
        assert found.trusted
        assert not found.warnings
        return found.excluded


@pytest.mark.parametrize(("arch", "by_newest"), JUDGED)
def test_each_level_leaves_out_what_makedumpfile_does(
    arch: str, by_newest: bool, lab: Path, written: Callable[..., Path], tmp_path: Path
) -> None:
    """Bit for bit, but for pages that makedumpfile's file has no place for: firmware behind the last struct page.

    Two more of its faults would show, which these guests do not have: 1.7.8 takes an anonymous page that somebody waits
    for (PG_waiters, the bit that PG_slab had) for slab since Linux 6.10, and misreads the sections of 1 GiB pages that
    are reserved at boot since 6.15.
    """
    elf = written(arch, "--format", "elf")
    by = newest(lab, "makedumpfile") if by_newest else ()
    different = {}
    for level in range(32):
        out = tmp_path / "theirs"
        done = makedumpfile("-f", "-l", "-d", str(level), elf, out, by=by)
        assert done.returncode == 0, done.stdout + done.stderr
        memory, theirs = left_out(out)
        ours = chosen(elf, level)
        wrong = ours.clip(0, memory.end).subtract(theirs), theirs.subtract(ours)
        if any(wrong) or ours.clip(memory.end, 1 << 64):
            different[level] = wrong
    assert different == {}


def test_the_guest_of_every_class_has_them(written: Callable[..., Path]) -> None:
    with pydump.open(written("x86_64-rich", "--format", "elf")) as dump:
        found = LinuxFilter.classify(dump.image, dump.guest, installed().arch("x86_64"))
    assert {name for name, ranges in found.classes.items() if ranges} == set(LinuxFilter.classes)
    assert found.classes["offline"].size >= 16 << 20
    assert found.classes["hwpoison"].size >= 6 * 4096


@pytest.mark.parametrize("arch", [*ARCHES, "i386"])
def test_each_page_is_of_the_class_that_drgn_gives(
    arch: str, guest: Callable[[str], Guest], written: Callable[..., Path]
) -> None:
    with pydump.open(written(arch, "--format", "elf")) as dump:
        facts = dump.guest
        assert facts.page_size
        found = LinuxFilter.classify(dump.image, facts, installed().arch(arch))
    assert facts.vmcoreinfo
    named = [facts.vmcoreinfo.symbol(name) for name in ("mem_map", "contig_page_data")] if arch == "i386" else []
    # It reads the smallest dump: all struct pages are there, and what they lead to.
    smallest = written(arch, "-d", "31", *WALKED.get(arch, ()))
    theirs = drgn_pages(smallest, guest(arch).vmlinux, tuple(address for address in named if address))
    ours = {
        name: {pfn for start, end in ranges for pfn in range(start // facts.page_size, end // facts.page_size)}
        for name, ranges in found.classes.items()
        if ranges
    }
    assert {"cache", "user", "free"} <= set(ours)
    wrong = {name: sorted(ours.get(name, set()) ^ theirs.get(name, set()))[:5] for name in {*ours, *theirs}}
    assert not any(wrong.values()), wrong
    assert [check for check in found.checks if not check.passed] == []


@pytest.mark.parametrize("form", [(), ("--format", "elf")], ids=["kdump", "elf"])
@pytest.mark.parametrize("arch", ["x86_64", *ARCHES])
def test_drgn_lists_all_tasks_of_the_smallest_dump(
    arch: str, form: tuple[str, ...], guest: Callable[[str], Guest], written: Callable[..., Path]
) -> None:
    g = guest(arch)
    seen = drgn_tasks(written(arch, "-d", "31", *form), g.vmlinux)
    assert isinstance(seen, Tasks), seen
    counted = int(g.console.split("LAB tasks ")[1].split()[0])
    assert counted - 8 <= seen.tasks <= counted + 2
    assert len(seen.stacks) == 2
    if arch != "riscv64":  # where drgn cannot unwind
        assert all(len(stack) > 3 for stack in seen.stacks)


@pytest.mark.parametrize("arch", ["x86_64", "aarch64", "s390x", "ppc64"])  # drgn has no linear map of riscv64
def test_drgn_finds_the_slab_objects_of_the_smallest_dump(
    arch: str, guest: Callable[[str], Guest], written: Callable[..., Path]
) -> None:
    tasks, objects = drgn_task_structs(written(arch, "-d", "31", *WALKED.get(arch, ())), guest(arch).vmlinux)
    assert len(tasks) > 20
    assert tasks <= objects


@pytest.mark.parametrize("arch", ["x86_64", *ARCHES])
def test_libkdumpfile_reads_what_is_kept_and_says_what_is_not(
    arch: str, guest: Callable[[str], Guest], written: Callable[..., Path], tmp_path: Path
) -> None:
    g, dump = guest(arch), written(arch, "-d", "31")
    _, excluded = left_out(dump)
    kept, dropped = [], []
    for start, end, offset in g.ram_ranges():
        out = excluded.clip(start, end)
        dropped += [(a, b, offset + a - start) for a, b in out]
        kept += [(a, b, offset + a - start) for a, b in Ranges.of([(start, end)]).subtract(out)]
    pages = kdumpfile_pages([dump], g.ram, kept, tmp_path)
    assert (pages.missing, pages.different) == ([], [])
    assert pages.same * pages.page_size == g.visible - excluded.size
    assert excluded.size > g.visible // 2
    pages = kdumpfile_pages([dump], g.ram, dropped, tmp_path)
    assert pages.same == 0
    assert all("Excluded page" in line for line in pages.missing)


@pytest.mark.parametrize(
    ("by_newest", "form"),
    [(False, ()), (True, ()), (True, ("--format", "elf"))],
    ids=["the-systems-kdump", "the-newest-kdump", "the-newest-elf"],
)
def test_crash_answers_from_the_smallest_dump(
    by_newest: bool, form: tuple[str, ...], lab: Path, guest: Callable[[str], Guest], written: Callable[..., Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    g, dump = guest("x86_64"), written("x86_64", "-d", "31", *form)
    memory, excluded = left_out(dump)
    kept = next(iter(memory.ranges().subtract(excluded).clip(1 << 20, 1 << 32)))[0]
    dropped = next(iter(excluded.clip(1 << 20, 1 << 32)))[0]
    commands = ("sys", "ps", "bt -a", "log", "kmem -i", f"kmem -p {kept:#x}", f"rd -p {kept:#x}", f"rd -p {dropped:#x}")
    said = crash(dump, g.vmlinux, tmp_path, *commands, by=newest(lab, "crash") if by_newest else ())
    release = (g.vmlinux.parent / "release").read_text().strip()
    assert f"RELEASE: {release}" in said
    assert f"Linux version {release}" in said
    assert said.count("PID: ") >= 2
    if by_newest:  # crash 8.0.2 lists the idle tasks alone, of the whole dump, too
        counted = int(g.console.split("LAB tasks ")[1].split()[0])
        assert len(re.findall(r"^[> ] +\d+ +\d+ +\d +[0-9a-f]{16} ", said, re.M)) >= counted - 8
    # The kernel's own counter of free pages is up to date but for what each CPU has not added yet.
    free = re.search(r"^ +FREE +(\d+)", said, re.M)
    assert free
    assert abs(int(free[1]) - chosen(g.elf, 16).size // 4096) < 100
    assert re.search(rf"^[0-9a-f]{{16}} +{kept:x} ", said, re.M)
    assert re.search(rf"^ +{kept:x}: +[0-9a-f]{{16}} ", said, re.M)
    if form:  # what an ELF does not store reads as zeros
        assert re.search(rf"^ +{dropped:x}: +0000000000000000 ", said, re.M)
    elif by_newest:  # crash 9 prints nothing for such a page, in makedumpfile's own files, too
        assert not re.search(rf"^ +{dropped:x}: ", said, re.M)
    else:
        assert f"rd: page excluded: physical address: {dropped:x}" in said


def test_makedumpfile_filters_what_is_filtered_once_more(
    guest: Callable[[str], Guest], written: Callable[..., Path], tmp_path: Path
) -> None:
    done = makedumpfile("-l", "-d", "24", written("x86_64", "-d", "2", "--ram-only"), tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert left_out(tmp_path / "out")[1] == chosen(guest("x86_64").elf, 26)


@pytest.mark.parametrize("arch", ["x86_64", "x86_64-rich"])
def test_the_log_is_makedumpfiles(arch: str, written: Callable[..., Path], pydump: Pydump, tmp_path: Path) -> None:
    elf = written(arch, "--format", "elf")
    done = makedumpfile("--dump-dmesg", elf, tmp_path / "theirs")
    assert done.returncode == 0, done.stdout + done.stderr
    ours = pydump("dmesg", elf).stdout
    # Newer ones print the caller, too: "[    0.000000] [      T0] Linux version".
    theirs = re.sub(r"^(\[ *\d+\.\d{6}\]) \[ *[TC]\d+\]", r"\1", (tmp_path / "theirs").read_text(), flags=re.M)
    assert ours == theirs
    assert ("Linux version" in ours) == (arch == "x86_64")
    if arch == "x86_64-rich":  # its log has wrapped
        records = json.loads(pydump("dmesg", "--json", elf).stdout)["records"]
        assert records[0]["seq"] > 1000
        numbers = [int(number) for number in re.findall(r"LAB line\.+(\d+)$", ours, re.M)]
        # A boot whose kernel warns of much has none of them left.
        assert numbers == list(range(6001 - len(numbers), 6001))


@pytest.mark.parametrize("arch", ARCHES)
def test_the_log_holds_what_the_console_showed(arch: str, guest: Callable[[str], Guest], pydump: Pydump) -> None:
    g = guest(arch)
    said = set(pydump("dmesg", g.elf).stdout.splitlines())
    shown = [line for line in g.console.replace("\r", "").splitlines() if re.match(r"\[ *\d+\.\d{6}\] ", line)]
    assert len(shown) > 5
    assert [line for line in shown if line not in said] == []
