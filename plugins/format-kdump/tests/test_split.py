"""Dumps that are split over several files."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pydump
from pydump.errors import PlanError, PydumpError, UnsupportedError
from pydump.model.memory import Ranges
from pydump.testing import guests
from pydump.testing.readers import read_kdump_set
from pydump.testing.sources import GUESTS, Filtered, contents, guest

pytestmark = pytest.mark.slow

PAGE = 4096


def split(source: pydump.MemoryImage, directory: Path, n: int, **options: object) -> list[Path]:
    """Write the parts, and give their paths."""
    pydump.dump(source, directory / "part.%d", split=n, **options)  # type: ignore[arg-type]
    parts = [directory / f"part.{i}" for i in range(n)]
    assert sorted(directory.iterdir()) == parts
    return parts


def joined(parts: list[Path]) -> str:
    return ",".join(map(str, parts))


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize("name", GUESTS)
def test_an_independent_reader_finds_each_page_in_one_part(name: str, n: int, tmp_path: Path) -> None:
    source = guest(name)
    parts = split(source, tmp_path, n, compression="zlib", options={"kdump": {"dedup": False}})
    ranges, held = read_kdump_set([part.read_bytes() for part in parts])
    assert [start for start, _ in ranges] == [0, *(end for _, end in ranges[:-1])]
    ram = source.guest().memory.ranges()
    assert Ranges.of((at, at + PAGE) for at in held.pages) == ram
    for at, page in held.pages.items():
        assert page == contents(source, at, PAGE)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_the_parts_are_about_as_large_as_each_other(n: int, tmp_path: Path) -> None:
    source = guest("64-bit, little-endian")
    parts = split(source, tmp_path, n)
    ranges, held = read_kdump_set([part.read_bytes() for part in parts])
    counts = [sum(start <= at // PAGE < end for at in held.pages) for start, end in ranges]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("compression", ["none", "zlib", "lzo", "snappy", "zstd"])
@pytest.mark.parametrize("workers", [1, 3])
def test_the_parts_are_the_guest(compression: str, workers: int, tmp_path: Path) -> None:
    source = guest("64-bit, little-endian")
    (tmp_path / "parts").mkdir()
    parts = split(source, tmp_path / "parts", 3, compression=compression, workers=workers)
    pydump.dump(source, tmp_path / "whole", compression=compression)
    assert pydump.compare(joined(parts), tmp_path / "whole").same
    assert pydump.verify(joined(parts[::-1])).ok
    pydump.dump(joined(parts), tmp_path / "again", compression=compression)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_filtered_guest_is_split_by_what_is_left(tmp_path: Path) -> None:
    source = Filtered(guest("64-bit, little-endian"), Ranges.of([(0x104000, 0x120000), (0, 40 * PAGE)]))
    with pydump.open(joined(split(source, tmp_path, 2))) as back:
        assert back.image.excluded() == source.excluded()
        assert back.guest.memory.ranges() == source.guest().memory.ranges()


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_part_is_named_and_the_rest_is_read(missing: int, tmp_path: Path) -> None:
    source = guest("64-bit, little-endian")
    parts = split(source, tmp_path, 3)
    ranges, _ = read_kdump_set([part.read_bytes() for part in parts])
    start, end = ranges[missing]
    del parts[missing]
    with pydump.open(joined(parts)) as back:
        (line,) = back.image.warnings()
        assert f"the part with the pfns {start:#x} to {end:#x} is missing" in line
        assert back.image.unreadable() == source.guest().memory.ranges().clip(start * PAGE, end * PAGE)
        for at, stop in back.guest.memory.ranges().subtract(back.image.unreadable()):
            assert contents(back.image, at, stop - at) == contents(source, at, stop - at)
    report = pydump.dump(joined(parts), tmp_path / "out")
    assert not report.complete


def test_damage_in_one_part_is_stated_in_the_header_of_each(tmp_path: Path) -> None:
    """crash takes the parts of a dump only if their headers are equal."""
    source = guest("64-bit, little-endian")
    pydump.dump(source, tmp_path / "whole", compression="zlib", options={"kdump": {"dedup": False}})
    data = bytearray((tmp_path / "whole").read_bytes())
    data[-300:] = bytes(300)  # of the last page
    (tmp_path / "whole").write_bytes(data)
    (tmp_path / "parts").mkdir()
    report = pydump.dump(tmp_path / "whole", tmp_path / "parts/part.%d", split=3, compression="lzo")
    assert report.unreadable_size
    heads = {part.read_bytes()[:PAGE] for part in (tmp_path / "parts").iterdir()}
    assert len(heads) == 1
    (status,) = struct.unpack_from("<I", heads.pop(), 424)
    assert status & 8, "DUMP_DH_COMPRESSED_INCOMPLETE"


@pytest.mark.parametrize(
    ("output", "n", "why"),
    [
        ("out", 2, "--split 2 needs 2 outputs, and out names 1; write vmcore.%d"),
        ("a,b", 3, "--split 3 needs 3 outputs, and a,b names 2"),
        ("a,./a", 2, "two of the outputs are the same"),
        ("a%d", 1, "--split must be at least 2, not 1"),
        ("a%d", 411, "the dump has 360 pages, which are too few for 411 files"),
    ],
)
def test_what_cannot_be_split_is_refused(
    output: str, n: int, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PlanError) as caught:
        pydump.dump(guest("64-bit, little-endian"), output, split=n)
    assert str(caught.value).startswith(why)
    assert list(tmp_path.iterdir()) == []


def test_other_formats_and_qemus_bytes_are_not_split(tmp_path: Path) -> None:
    source = guest("64-bit, little-endian")
    with pytest.raises(UnsupportedError, match="format elf cannot be split over several files; leave --split out"):
        pydump.dump(source, tmp_path / "%d", format="elf", split=2)
    with pytest.raises(PlanError, match="QEMU writes one file"):
        pydump.dump(source, tmp_path / "%d", compat="qemu", split=2)


def test_each_part_has_its_own_place(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    report = pydump.dump(guest("64-bit, little-endian"), f"{tmp_path}/one,{tmp_path}/disk/two", split=2)
    assert report.parts == (f"{tmp_path}/one", f"{tmp_path}/disk/two")
    assert report.output_size == sum(Path(part).stat().st_size for part in report.parts)
    assert pydump.verify(",".join(report.parts)).ok


# --- all or none ---


def test_no_part_is_left_where_one_has_appeared_meanwhile(tmp_path: Path) -> None:
    def appear(milestone: str) -> None:
        if milestone == "captured":
            (tmp_path / "part.1").write_bytes(b"somebody else's")

    with pytest.raises(PydumpError, match=r"part\.1 appeared while the dump was written"):
        pydump.dump(guest("64-bit, little-endian"), tmp_path / "part.%d", split=3, reached=appear)
    assert [path.name for path in tmp_path.iterdir()] == ["part.1"]
    assert (tmp_path / "part.1").read_bytes() == b"somebody else's"


def test_nothing_is_opened_where_one_part_exists(tmp_path: Path) -> None:
    (tmp_path / "part.2").write_bytes(b"somebody else's")
    with pytest.raises(PlanError, match=r"part\.2 exists"):
        pydump.dump(guest("64-bit, little-endian"), tmp_path / "part.%d", split=3)
    assert [path.name for path in tmp_path.iterdir()] == ["part.2"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("delay", [0.0, 0.3, 0.8])
def test_a_killed_dump_leaves_all_parts_or_none(number: int, delay: float, tmp_path: Path) -> None:
    ram, parts = tmp_path / "ram", tmp_path / "parts"
    parts.mkdir()
    ram.write_bytes(guests.random_page(1, 1 << 20) * 96)
    command = [sys.executable, "-m", "pydump", "dump", f"raw:{ram}@0", str(parts / "part.%d"), "--split", "3"]
    command += ["--arch", "x86_64", "--compression", "zlib", "--zlib-level", "9", "--no-dedup", "--progress", "json"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as running:
        assert running.stderr is not None
        running.stderr.readline()  # it has begun
        time.sleep(delay)
        os.kill(running.pid, number)
        running.stderr.read()
        running.wait(60)
    left = sorted(path.name for path in parts.iterdir() if not path.name.startswith("."))
    assert left in ([], ["part.0", "part.1", "part.2"])
