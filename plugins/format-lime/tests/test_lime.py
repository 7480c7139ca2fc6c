"""LiME memory images: whole, cut off, damaged, and as other programs have them."""

from __future__ import annotations

import contextlib
import lzma
import os
import random
import struct
from pathlib import Path

import pytest

import pydump
from pydump.errors import FormatError, PlanError, PydumpError
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges

DATA = Path(__file__).parents[3] / "tests/data/lime/two-ranges.lime.xz"
RANGES = [(0, 0xA0000), (0x100000, 0x400000)]
#: In the file behind each header.
OFFSETS = [32, 0xA0000 + 64]


@pytest.fixture(scope="session")
def lime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample, unpacked."""
    path = tmp_path_factory.mktemp("lime") / "sample.lime"
    path.write_bytes(lzma.decompress(DATA.read_bytes()))
    return path


def header(start: int, last: int, magic: int = 0x4C694D45, version: int = 1) -> bytes:
    """Source: LiME doc/README.md."""
    return struct.pack("<IIQQQ", magic, version, start, last, 0)


def page(seed: int) -> bytes:
    return random.Random(seed).randbytes(4096)


def opened(path: Path, data: bytes) -> pydump.Dump:
    path.write_bytes(data)
    return pydump.open(path, arch="x86_64")


def test_the_sample_is_read(lime: Path) -> None:
    data = lime.read_bytes()
    with pydump.open(lime, arch="x86_64") as dump:
        assert [(block.paddr, block.end) for block in dump.guest.memory] == RANGES
        for (start, end), offset in zip(RANGES, OFFSETS, strict=True):
            assert dump.read(start, end - start) == data[offset : offset + end - start]
        assert dump.image.warnings() == ()


def test_a_lime_file_is_written_as_lime_writes_it(lime: Path, tmp_path: Path) -> None:
    data = lime.read_bytes()
    contents = {start: data[at : at + end - start] for (start, end), at in zip(RANGES, OFFSETS, strict=True)}
    source = pydump.BytesImage(Guest(MemoryMap(()), arch="x86_64"), contents)
    for workers in (1, 3):
        pydump.dump(source, tmp_path / "out", format="lime", workers=workers, force=True)
        assert (tmp_path / "out").read_bytes() == data


@pytest.mark.parametrize("middle", ["elf", "kdump"])
def test_a_lime_file_comes_back_through_another_format(middle: str, lime: Path, tmp_path: Path) -> None:
    compression = "zlib" if middle == "kdump" else None
    pydump.dump(lime, tmp_path / "middle", format=middle, compression=compression, arch="x86_64")
    pydump.dump(tmp_path / "middle", tmp_path / "back", format="lime")
    assert (tmp_path / "back").read_bytes() == lime.read_bytes()


def test_memory_alone_needs_no_architecture(lime: Path, tmp_path: Path) -> None:
    report = pydump.dump(lime, tmp_path / "out", format="lime")
    assert (report.arch, report.byte_order, report.complete) == (None, "", True)
    assert (tmp_path / "out").read_bytes() == lime.read_bytes()
    with pytest.raises(PlanError, match="--arch"):
        pydump.dump(lime, tmp_path / "free", format="lime", exclude={"free"})
    with pytest.raises(PlanError, match="--arch"):
        pydump.dump(lime, tmp_path / "elf", format="elf")


def test_what_was_left_out_is_in_no_range(tmp_path: Path) -> None:
    memory = page(1) + bytes(4 << 20) + page(2)
    source = pydump.BytesImage(Guest(MemoryMap(()), arch="x86_64"), {0: memory})
    pydump.dump(source, tmp_path / "out", format="lime", exclude={"zero"})
    assert (tmp_path / "out").read_bytes() == (header(0, 0xFFF) + page(1) + header(0x401000, 0x401FFF) + page(2))


@pytest.mark.parametrize("cut", [OFFSETS[1] + 5, OFFSETS[1], 0x50000, 33, 32])
def test_a_cut_file_reads_what_is_there(cut: int, lime: Path, tmp_path: Path) -> None:
    data = lime.read_bytes()
    with opened(tmp_path / "in", data[:cut]) as dump:
        lost = dump.image.unreadable()
        held = dump.stated.memory.ranges().subtract(lost)
        headers = 1 if cut < OFFSETS[1] else 2
        assert held.size == cut - 32 * headers
        for start, end in held:
            offset = OFFSETS[start >= 0x100000] - (0x100000 if start else 0)
            assert dump.read(start, end - start) == data[start + offset : end + offset]
        assert any("cut off" in line for line in dump.image.warnings())


def test_a_dump_of_a_cut_file_is_incomplete(lime: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(lime.read_bytes()[:-4096])
    report = pydump.dump(tmp_path / "in", tmp_path / "out", format="elf", arch="x86_64")
    assert (report.complete, report.unreadable_size) == (False, 4096)
    with pydump.open(tmp_path / "out") as dump:
        assert dump.image.unreadable() == Ranges.of([(0x3FF000, 0x400000)])


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (header(0x5000, 0x5FFF, version=2), "no LiME header"),
        (header(0x5000, 0x5FFF, magic=0x4C4D5641, version=2), "AVML block"),
        (header(0x5000, 0x4FFF), "before it begins"),
        (header(0x5000, (1 << 64) - 1), "too large"),
        (header(0, (1 << 63)), "too large"),
        (bytes(32), "no LiME header"),
        (header(0x5000, 0x5FFF)[:31], "within a header"),
    ],
)
def test_a_damaged_header_ends_the_file(second: bytes, why: str, tmp_path: Path) -> None:
    with opened(tmp_path / "in", header(0x1000, 0x1FFF) + page(1) + second) as dump:
        assert [(block.paddr, block.end) for block in dump.guest.memory] == [(0x1000, 0x2000)]
        (line,) = dump.image.warnings()
        assert why in line
        assert "at offset 0x1020" in line


@pytest.mark.parametrize("head", [header(0x5000, 0x4FFF), header(0, 1 << 63), header(0, 0xFFF)[:31]])
def test_a_file_without_a_range_is_refused(head: bytes, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="before it begins|too large|within a header"):
        opened(tmp_path / "in", head)


def test_ranges_in_any_order_and_over_each_other(tmp_path: Path) -> None:
    """LiME writes them in the order of /proc/iomem; the range that begins first has what two claim."""
    parts = (header(0x3000, 0x4FFF), page(3), page(4), header(0x1000, 0x1FFF), page(1), header(0x4000, 0x5FFF))
    with opened(tmp_path / "in", b"".join((*parts, page(5), page(6)))) as dump:
        assert [(block.paddr, block.end) for block in dump.guest.memory] == [(0x1000, 0x2000), (0x3000, 0x6000)]
        for paddr, seed in ((0x1000, 1), (0x3000, 3), (0x4000, 4), (0x5000, 6)):
            assert dump.read(paddr, 4096) == page(seed)
        assert any("overlap" in line for line in dump.image.warnings())


def test_ranges_that_touch_are_one_block(tmp_path: Path) -> None:
    with opened(tmp_path / "in", header(0, 0xFFF) + page(1) + header(0x1000, 0x1FFF) + page(2)) as dump:
        assert [(block.paddr, block.end) for block in dump.guest.memory] == [(0, 0x2000)]
        assert dump.read(0, 8192) == page(1) + page(2)


def test_random_damage_gives_memory_or_an_error(lime: Path, tmp_path: Path) -> None:
    data = lime.read_bytes()[: OFFSETS[1] + 0x2000]
    chance = random.Random(1)
    for _ in range(int(os.environ.get("PYDUMP_CUTS", "50"))):
        broken = bytearray(data)
        for _ in range(3):
            at = chance.choice((0, OFFSETS[1] - 32)) + chance.randrange(32)
            broken[at] = chance.randrange(256)
        with contextlib.suppress(PydumpError), opened(tmp_path / "in", bytes(broken)) as dump:
            for start, end in dump.stated.memory.ranges().subtract(dump.image.unreadable()):
                dump.read(start, min(end - start, 1 << 16))
