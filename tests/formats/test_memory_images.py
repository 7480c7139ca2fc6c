"""Guests there and back through formats that hold memory alone: memory is equal, and what is lost is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import pydump

pytestmark = pytest.mark.slow

GUESTS = ("bare-aarch64", "bare-arm", "bare-i386", "bare-ppc64", "bare-riscv64", "bare-s390x", "linux-x86_64")
#: What is read of each format's output.
READ = {"lime": "{}", "avml": "{}", "raw": "raw:{}.map"}
OPTIONS = {"raw": {"packed": True}}


def test_every_format_that_holds_memory_alone_is_here() -> None:
    from pydump.registry import installed

    bare = {cls.name for cls in installed().formats() if cls.writes() and not cls.carries}
    assert bare == set(READ)


@pytest.mark.parametrize("format_", READ)
@pytest.mark.parametrize("guest", GUESTS)
def test_there_and_back(format_: str, guest: str, qemu: Callable[[str, str], Path], tmp_path: Path) -> None:
    elf, middle, back = qemu(guest, "elf"), tmp_path / "middle", tmp_path / "back"
    with pydump.open(elf) as dump:
        arch, n_notes = dump.guest.arch, len(dump.notes)
    there = pydump.dump(elf, middle, format=format_, options=OPTIONS if format_ == "raw" else {})
    (lost,) = (line for line in there.warnings if "has no place for" in line)
    assert f"{n_notes} notes" in lost
    assert "the architecture" in lost
    assert (f"--arch {arch}" in lost) == (format_ != "raw")  # no format reads it: raw: does
    pydump.dump(READ[format_].format(middle), back, format="elf", arch=arch)
    found = pydump.compare(elf, back)
    assert {difference.kind for difference in found.differences} <= {"note", "vmcoreinfo"}
    assert found.compared_size == there.stored_size


@pytest.mark.parametrize("left", READ)
@pytest.mark.parametrize("right", READ)
def test_each_to_each(left: str, right: str, qemu: Callable[[str, str], Path], tmp_path: Path) -> None:
    """No architecture is needed for it."""
    elf = qemu("bare-s390x", "elf")
    pydump.dump(elf, tmp_path / "left", format=left, options=OPTIONS if left == "raw" else {})
    source = READ[left].format(tmp_path / "left")
    report = pydump.dump(source, tmp_path / "right", format=right, options=OPTIONS if right == "raw" else {})
    assert (report.warnings, report.complete) == ((), True)
    found = pydump.compare(elf, READ[right].format(tmp_path / "right"), arch="s390x")
    assert {difference.kind for difference in found.differences} <= {"note", "fact"}
    assert found.compared_size == report.stored_size


@pytest.mark.parametrize("format_", READ)
def test_a_page_that_is_lost_stays_lost(format_: str, qemu: Callable[[str, str], Path], tmp_path: Path) -> None:
    whole = qemu("bare-aarch64", "elf").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-8192])
    report = pydump.dump(
        tmp_path / "cut", tmp_path / "out", format=format_, options=OPTIONS if format_ == "raw" else {}
    )
    assert not report.complete
    assert any("that are unreadable are not RAM in the output" in line for line in report.warnings)
