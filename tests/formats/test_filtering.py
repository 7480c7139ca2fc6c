"""Pages of the bundled Linux guest that each dump level leaves out, against what makedumpfile leaves out of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pydump
from pydump.engine.exclude import classes_of_level, level_of_classes
from pydump.errors import PlanError
from pydump.model.memory import Ranges

pytestmark = pytest.mark.slow

#: Pages left out at each level: makedumpfile 1.7.8 -c -d LEVEL of the guest's dump as pydump writes it, bit for bit.
DROPPED = {0: 0, 2: 494, 4: 494, 8: 30, 16: 5696, 31: 6220}
PAGE = 4096


@pytest.fixture
def guest(qemu: Callable[[str, str], Path]) -> str:
    return str(qemu("linux-x86_64", "elf"))


def excluded(path: Path) -> Ranges:
    with pydump.open(path) as dump:
        return dump.image.excluded()


@pytest.mark.parametrize("level", DROPPED)
def test_a_kdump_leaves_out_what_makedumpfile_leaves_out(level: int, guest: str, tmp_path: Path) -> None:
    report = pydump.dump(guest, tmp_path / "out", dump_level=level)
    assert report.complete
    assert report.excluded_size == DROPPED[level] * PAGE
    assert excluded(tmp_path / "out").size == DROPPED[level] * PAGE
    assert pydump.verify(tmp_path / "out").ok
    with pydump.open(tmp_path / "out") as dump:
        assert dump.guest.dump_level & 30 == level & 30


def test_what_is_kept_is_the_guests_memory(guest: str, tmp_path: Path) -> None:
    pydump.dump(guest, tmp_path / "out", dump_level=31)
    with pydump.open(guest) as whole, pydump.open(tmp_path / "out") as filtered:
        kept = whole.guest.memory.ranges().subtract(filtered.image.excluded())
        for start, end in kept:
            assert filtered.read(start, end - start) == whole.read(start, end - start), hex(start)


def test_each_check_is_in_the_report(guest: str, tmp_path: Path) -> None:
    report = pydump.dump(guest, tmp_path / "out", dump_level=16)
    assert [(check.name, check.passed) for check in report.checks] == [
        ("free pages", True),
        ("shapes", True),
        ("pages that must stay", True),
    ]
    assert report.checks[0].detail == "5696 found, 5696 in the zone lists"
    assert dict(report.excluded_classes)["free"] == 5696 * PAGE


def test_filtering_again_leaves_out_both(guest: str, tmp_path: Path) -> None:
    pydump.dump(guest, tmp_path / "first", dump_level=2)
    report = pydump.dump(tmp_path / "first", tmp_path / "second", dump_level=24)
    assert report.excluded_size == (DROPPED[2] + DROPPED[8] + DROPPED[16]) * PAGE
    with pydump.open(tmp_path / "second") as dump:
        assert dump.guest.dump_level & 30 == 26


def test_elf_keeps_short_runs(guest: str, tmp_path: Path) -> None:
    """Each run that is left out costs a program header: those below 1 MiB are stored, as makedumpfile does."""
    report = pydump.dump(guest, tmp_path / "out", format="elf", dump_level=16)
    runs = excluded(tmp_path / "out")
    assert runs
    assert report.short_size == DROPPED[16] * PAGE - report.excluded_size > 0
    assert all(end - start >= 1 << 20 for start, end in runs)
    pydump.dump(guest, tmp_path / "kdump", dump_level=16)
    assert not runs.subtract(excluded(tmp_path / "kdump"))


def test_elf_leaves_zero_pages_out(guest: str, tmp_path: Path) -> None:
    report = pydump.dump(guest, tmp_path / "out", format="elf", dump_level=1)
    assert dict(report.excluded_classes)["zero"] > 1 << 20
    with pydump.open(guest) as whole:
        for start, end in excluded(tmp_path / "out"):
            assert whole.read(start, end - start) == bytes(end - start)


@pytest.mark.parametrize(
    ("format_", "wanted", "told"),
    [
        ("kdump", {"dump_level": 1}, True),
        ("kdump", {"exclude": ["zero"]}, True),
        ("kdump", {"dump_level": 17}, False),
        ("elf", {"dump_level": 1}, False),
    ],
)
def test_zero_pages_alone_change_nothing_in_a_kdump_and_it_says_so(
    format_: str, wanted: dict[str, Any], told: bool, guest: str, tmp_path: Path
) -> None:
    report = pydump.dump(guest, tmp_path / "out", format=format_, **wanted)
    line = "kdump stores all zero pages as one: to leave them out changes nothing"
    assert (line in report.warnings) == told


def test_ram_only_leaves_the_firmware_out(guest: str, tmp_path: Path) -> None:
    report = pydump.dump(guest, tmp_path / "out", ram_only=True)
    assert report.ram_size == 96 << 20
    with pydump.open(tmp_path / "out") as dump:
        assert dump.guest.memory.end == 96 << 20


def test_by_name_and_by_number_are_the_same(guest: str, tmp_path: Path) -> None:
    for level in range(32):
        assert level_of_classes(classes_of_level(level)) & 30 == (level | (level & 4) >> 1) & 30
    pydump.dump(guest, tmp_path / "name", exclude=["free", "user"])
    pydump.dump(guest, tmp_path / "number", dump_level=24)
    assert (tmp_path / "name").read_bytes() == (tmp_path / "number").read_bytes()


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"dump_level": 32}, "no dump level 32"),
        ({"dump_level": -1}, "no dump level -1"),
        ({"exclude": ["slab"]}, "no installed filter knows pages of class 'slab'"),
        ({"dump_level": 16, "compat": "qemu"}, "--compat qemu cannot"),
        ({"dump_level": 16, "no_vmcoreinfo": True}, None),
    ],
)
def test_what_cannot_be_left_out(wanted: dict[str, Any], why: str | None, guest: str, tmp_path: Path) -> None:
    if why is None:
        assert pydump.dump(guest, tmp_path / "out", **wanted).excluded_size == DROPPED[16] * PAGE
        return
    with pytest.raises(PlanError, match=why):
        pydump.dump(guest, tmp_path / "out", **wanted)
    assert not (tmp_path / "out").exists()


def test_a_guest_without_a_kernel_cannot_be_filtered(qemu: Callable[[str, str], Path], tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no filter can find the free pages"):
        pydump.dump(str(qemu("bare-x86_64", "elf")), tmp_path / "out", dump_level=16)


def test_rules_that_do_not_fit_leave_nothing_out(guest: str, tmp_path: Path) -> None:
    """VMCOREINFO that gives free pages another mark: what is found is not what the zone lists say."""
    with pydump.open(guest) as dump:
        text = dump.vmcoreinfo
    assert text is not None
    wrong = text.text.replace(b"PAGE_BUDDY_MAPCOUNT_VALUE)=-129", b"PAGE_BUDDY_MAPCOUNT_VALUE)=-125")
    assert wrong != text.text
    report = pydump.dump(guest, tmp_path / "out", dump_level=16, vmcoreinfo=type(text)(wrong))
    assert not report.complete
    assert report.excluded_size == 0
    assert "nothing is left out (--filter-anyway insists)" in report.warnings[0]
    assert "free pages: 0 found, 5696 in the zone lists" in report.warnings[0]
    with pydump.open(tmp_path / "out") as dump:
        assert dump.guest.dump_level & 30 == 0
