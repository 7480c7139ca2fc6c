"""Bare memory: each byte at its address, or end to end with a map beside it."""

from __future__ import annotations

import lzma
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pydump
from pydump.builtin.raw import BytesImage
from pydump.errors import FormatError, PlanError, SinkError, SourceError, UnsupportedError
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump.testing.reopen import faults_of_reopening

PAGE = 4096
CONTENTS = {0: b"a" * 5 * PAGE, 0x100000: b"b" * PAGE + bytes(3 << 20) + b"c" * PAGE, 1 << 32: b"d" * 2 * PAGE}
QEMU = Path(__file__).parents[3] / "tests/data/qemu"


def source() -> BytesImage:
    return BytesImage(Guest(MemoryMap(()), arch="x86_64"), CONTENTS)


@pytest.mark.parametrize("workers", [1, 3])
def test_padded_memory_lies_at_its_address(workers: int, tmp_path: Path) -> None:
    pydump.dump(source(), tmp_path / "out", format="raw", workers=workers)
    assert (tmp_path / "out").stat().st_size == (1 << 32) + 2 * PAGE
    assert (tmp_path / "out").stat().st_blocks * 512 < 16 << 20, "what is not RAM is a hole"
    with (tmp_path / "out").open("rb") as file:
        for paddr, data in CONTENTS.items():
            file.seek(paddr)
            assert file.read(len(data)) == data
    with pydump.open(f"raw:{tmp_path}/out@0", arch="x86_64") as dump:
        assert dump.read(0x100000, PAGE) == b"b" * PAGE


@pytest.mark.parametrize("packed", [False, True])
def test_the_report_says_how_the_file_is_read(packed: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = pydump.dump(source(), out, format="raw", options={"raw": {"packed": packed}})
    how, *rest = report.remarks
    name, _, arch = how.removeprefix("read it as ").replace("'", "").partition(" --arch ")
    assert name == (f"raw:{out}.map" if packed else f"raw:{out}[0:]@0")
    with pydump.open(name, arch=arch) as back:
        assert back.guest.arch == "x86_64"
        assert all(back.read(paddr, len(data)) == data for paddr, data in CONTENTS.items())
    assert rest == ([] if packed else ["3 GiB of it are not RAM and read as zeros: --raw-packed leaves them out"])


def test_nothing_is_said_of_how_a_stream_is_read(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        report = pydump.dump(source(), f"fd:{file.fileno()}", format="raw")
    assert report.remarks == ()


def test_a_flattened_stream_of_bare_memory_is_refused(tmp_path: Path) -> None:
    for packed in (False, True):
        with pytest.raises(UnsupportedError, match="nothing reads a flattened stream of raw"):
            pydump.dump(source(), tmp_path / "out", format="raw", flatten=True, options={"raw": {"packed": packed}})


@pytest.mark.parametrize("guest", ["bare-arm", "bare-riscv64", "bare-s390x", "nano-x86_64"])
def test_packed_memory_is_what_qemu_has_in_its_backend(guest: str, tmp_path: Path) -> None:
    """QEMU's file of RAM beside its dump of the same guest. Firmware is in the dump as well, and not in the backend."""
    (tmp_path / "elf").write_bytes(lzma.decompress((QEMU / guest / "elf.xz").read_bytes()))
    ram = lzma.decompress((QEMU / guest / "ram.raw.xz").read_bytes())
    pydump.dump(tmp_path / "elf", tmp_path / "out", format="raw", options={"raw": {"packed": True}})
    with pydump.open(tmp_path / "elf") as dump, pydump.open(f"raw:{tmp_path}/out.map", arch=dump.guest.arch) as back:
        assert back.guest.memory.ranges() == dump.guest.memory.ranges()
        for start, end in dump.guest.memory.ranges():
            assert back.read(start, end - start) == dump.read(start, end - start)
        largest = max(dump.guest.memory, key=lambda block: block.size)
        assert back.read(largest.paddr, largest.size) in ram


def test_packed_memory_and_its_map(tmp_path: Path) -> None:
    for workers in (1, 3):
        pydump.dump(
            source(), tmp_path / "out", format="raw", workers=workers, force=True, options={"raw": {"packed": True}}
        )
        assert (tmp_path / "out").read_bytes() == b"".join(CONTENTS.values())
        lines = (tmp_path / "out.map").read_text().splitlines()
        assert lines[0].startswith("# pydump memory map")
        assert lines[1:] == ["0x0 0x5000 0x0", "0x100000 0x302000 0x5000", "0x100000000 0x2000 0x307000"]
    pydump.dump(source(), tmp_path / "elf", format="elf")
    assert pydump.compare(tmp_path / "elf", f"raw:{tmp_path}/out.map").same


def test_what_was_left_out_is_not_in_the_map(tmp_path: Path) -> None:
    report = pydump.dump(source(), tmp_path / "out", format="raw", exclude={"zero"}, options={"raw": {"packed": True}})
    assert any("are not RAM in the output" in line for line in report.warnings)
    with pydump.open(f"raw:{tmp_path}/out.map", arch="x86_64") as dump:
        assert not dump.stated.memory.ranges().intersect(Ranges.of([(0x101000, 0x401000)]))
        assert dump.read(0x401000, PAGE) == b"c" * PAGE


def test_a_map_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out.map").write_text("mine")
    for dry_run in (True, False):
        with pytest.raises((PlanError, SinkError), match=r"out\.map"):
            pydump.dump(source(), tmp_path / "out", format="raw", options={"raw": {"packed": True}}, dry_run=dry_run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.map"]
    assert (tmp_path / "out.map").read_text() == "mine"


def test_padded_memory_goes_down_a_pipe_and_packed_does_not(tmp_path: Path) -> None:
    low = BytesImage(Guest(MemoryMap(()), arch="x86_64"), {PAGE: b"a" * PAGE, 4 * PAGE: b"b" * PAGE})
    pydump.dump(low, tmp_path / "elf", format="elf")
    command = [sys.executable, "-m", "pydump", "-q", "dump", str(tmp_path / "elf"), "-", "--format", "raw"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True, env=os.environ)
    assert done.stdout == bytes(PAGE) + b"a" * PAGE + bytes(2 * PAGE) + b"b" * PAGE
    refused = subprocess.run([*command, "--raw-packed"], capture_output=True, timeout=60, check=False)
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert b"a .map file goes beside the output, which is a pipe" in refused.stderr


def test_another_process_opens_memory_by_its_map(tmp_path: Path) -> None:
    pydump.dump(source(), tmp_path / "out", format="raw", options={"raw": {"packed": True}})
    with pydump.open(f"raw:{tmp_path}/out.map", arch="x86_64") as dump:
        assert faults_of_reopening(dump.image) == []


def test_a_cut_file_reads_what_is_there(tmp_path: Path) -> None:
    pydump.dump(source(), tmp_path / "out", format="raw", options={"raw": {"packed": True}})
    os.truncate(tmp_path / "out", (tmp_path / "out").stat().st_size - PAGE - 3)
    with pydump.open(f"raw:{tmp_path}/out.map", arch="x86_64") as dump:
        assert dump.image.unreadable() == Ranges.of([((1 << 32) + PAGE - 3, (1 << 32) + 2 * PAGE)])
        assert dump.read(0, 5 * PAGE) == CONTENTS[0]
    report = pydump.dump(f"raw:{tmp_path}/out.map", tmp_path / "elf", format="elf", arch="x86_64")
    assert not report.complete


HEAD = "# pydump memory map\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (HEAD, "no run"),
        (HEAD + "0x0 0x1000\n", "line 2 is '0x0 0x1000'"),
        (HEAD + "0 4096 0\n", "line 2"),
        (HEAD + "\n# more\n0x0 0x1000 0x0 # no\n", "line 4"),
        (HEAD + "0xffffffffffffffff 0x1000 0x0\n", "end of the address space"),
        (HEAD + "0x0 0x800000000001 0x0\n", "larger than any guest"),
        (HEAD + "0x" + "f" * 90 + " 0x1 0x0\n", "line 2"),
    ],
)
def test_what_is_no_map_is_refused(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "ram.map").write_text(text)
    (tmp_path / "ram").write_bytes(bytes(PAGE))
    with pytest.raises(FormatError, match=why) as caught:
        pydump.open(f"raw:{tmp_path}/ram.map", arch="x86_64")
    assert "\n" not in str(caught.value)


def test_a_map_without_its_memory(tmp_path: Path) -> None:
    (tmp_path / "ram.map").write_text(HEAD + "0x0 0x1000 0x0\n")
    with pytest.raises(SourceError, match="put the file of memory beside it"):
        pydump.open(f"raw:{tmp_path}/ram.map", arch="x86_64")


def test_a_map_by_hand_with_runs_over_each_other(tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(b"a" * PAGE + b"b" * 2 * PAGE)
    (tmp_path / "ram.map").write_text(HEAD + "0x2000 0x2000 0x1000\n\n0x1000 0x1800 0x0\n")
    with pydump.open(f"raw:{tmp_path}/ram.map", arch="x86_64") as dump:
        assert dump.read(0x1000, PAGE) == b"a" * PAGE
        assert dump.read(0x3000, PAGE) == b"b" * PAGE
        assert any("overlap" in line for line in dump.image.warnings())


def test_memory_whose_name_ends_in_map_is_memory(tmp_path: Path) -> None:
    (tmp_path / "ram.map").write_bytes(b"x" * PAGE)
    with pydump.open(f"raw:{tmp_path}/ram.map", arch="x86_64") as dump:
        assert dump.read(0, PAGE) == b"x" * PAGE
