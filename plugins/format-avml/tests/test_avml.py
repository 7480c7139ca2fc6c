"""AVML memory images: whole, cut off, damaged, and in the blocks that Volatility 3 can read."""

from __future__ import annotations

import contextlib
import lzma
import os
import random
import struct
from pathlib import Path

import cramjam
import numpy as np
import pytest

import pydump
from pydump.builtin.raw import BytesImage
from pydump.errors import DamagedPageError, FormatError, PydumpError, UnsupportedError
from pydump.interfaces.image import MemoryImage
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges

DATA = Path(__file__).parents[3] / "tests/data/lime"
SAMPLES = ("two-ranges", "blocks-of-256k")
RANGES = [(0, 0xA0000), (0x100000, 0x400000)]
FRAME = 1 << 16
IDENTIFIER = b"\xff\x06\0\0sNaPpY"


def sample(name: str) -> bytes:
    return lzma.decompress((DATA / f"{name}.xz").read_bytes())


@pytest.fixture(scope="session")
def truth() -> dict[int, bytes]:
    """The memory of all samples, by its address, as the LiME sample has it."""
    data = sample("two-ranges.lime")
    return {0: data[32 : 32 + 0xA0000], 0x100000: data[64 + 0xA0000 :]}


def header(start: int, last: int, magic: int = 0x4C4D5641, version: int = 2) -> bytes:
    """Source: AVML src/image.rs."""
    return struct.pack("<IIQQQ", magic, version, start, last, 0)


def block(paddr: int, data: bytes) -> bytes:
    stream = bytes(cramjam.snappy.compress(data))
    return header(paddr, paddr + len(data) - 1) + stream + struct.pack("<Q", len(stream))


def opened(path: Path, data: bytes) -> pydump.Dump:
    path.write_bytes(data)
    return pydump.open(path, arch="x86_64")


def text(size: int, seed: int = 0) -> bytes:
    return (b"%08d prose that shrinks " % seed * (size // 20))[:size]


@pytest.mark.parametrize("name", SAMPLES)
def test_the_samples_are_read(name: str, truth: dict[int, bytes], tmp_path: Path) -> None:
    with opened(tmp_path / "in", sample(f"{name}.avml")) as dump:
        assert [(block.paddr, block.end) for block in dump.guest.memory] == RANGES
        for paddr, data in truth.items():
            assert dump.read(paddr, len(data)) == data
            for at, size in ((0, 1), (FRAME - 3, 6), (5, FRAME), (4096, 3 * FRAME), (len(data) - 9, 9)):
                assert dump.read(paddr + at, size) == data[at : at + size]
        assert dump.image.warnings() == ()


def blocks(path: Path) -> dict[int, bytes]:
    """Memory by address, read as AVML's own reader does; blocks that touch are joined."""
    data, at = path.read_bytes(), 0
    found: dict[int, bytes] = {}
    last = None
    while at < len(data):
        magic, version, start, end, reserved = struct.unpack_from("<IIQQQ", data, at)
        assert (magic, version, reserved) == (0x4C4D5641, 2, 0)
        at += 32
        begin, got = at, 0
        assert data[at : at + 10] == IDENTIFIER
        at += 10
        while got <= end - start:
            length = int.from_bytes(data[at + 1 : at + 4], "little")
            got += len(cramjam.snappy.decompress(IDENTIFIER + data[at : at + 4 + length]))
            at += 4 + length
        assert got == end - start + 1
        assert at - begin < end - start + 1, "Volatility 3 never ends on a stream that is longer"
        assert struct.unpack_from("<Q", data, at) == (at - begin,)
        memory = bytes(cramjam.snappy.decompress(data[begin:at]))
        at += 8
        if last is not None and last + len(found[last]) == start:
            found[last] += memory
        else:
            found[start] = memory
            last = start
    return found


def memory_of(contents: dict[int, bytes]) -> MemoryImage:
    return BytesImage(Guest(MemoryMap(()), arch="x86_64"), contents)


@pytest.mark.parametrize("workers", [1, 3])
def test_what_is_written_is_in_blocks_as_avml_has_them(workers: int, truth: dict[int, bytes], tmp_path: Path) -> None:
    report = pydump.dump(memory_of(truth), tmp_path / "out", format="avml", workers=workers)
    assert report.compression == "snappy"
    assert blocks(tmp_path / "out") == truth
    with pydump.open(tmp_path / "out", arch="x86_64") as dump:
        assert dump.image.warnings() == ()
        for paddr, data in truth.items():
            assert dump.read(paddr, len(data)) == data


@pytest.mark.parametrize(
    "kinds",
    ["text random", "random text", "text random random text", "random random random text", "text text random random"],
)
def test_memory_that_does_not_compress_shares_a_block(kinds: str, tmp_path: Path) -> None:
    """Batches are of 4 MiB: each kind fills one."""
    chance = np.random.default_rng(1)
    size = 4 << 20
    memory = b"".join(chance.bytes(size) if kind == "random" else text(size) for kind in kinds.split())
    contents = {0x1000: memory, 1 << 32: text(8192)}
    for workers in (1, 2):
        pydump.dump(memory_of(contents), tmp_path / "out", format="avml", workers=workers, force=True)
        assert blocks(tmp_path / "out") == contents


def test_memory_on_which_volatility_hangs_is_not_written(tmp_path: Path) -> None:
    contents = {0: text(8192), 0x10000: random.Random(1).randbytes(8192)}
    with pytest.raises(UnsupportedError, match=r"0x10000\.\.0x12000 does not compress.*--format lime"):
        pydump.dump(memory_of(contents), tmp_path / "out", format="avml")
    assert not (tmp_path / "out").exists()


def test_lime_ranges_among_the_blocks(tmp_path: Path) -> None:
    """AVML's own convert takes a mix."""
    plain = random.Random(1).randbytes(0x3000)
    data = block(0, text(0x1000)) + header(0x2000, 0x4FFF, 0x4C694D45, 1) + plain + block(0x5000, text(0x2000, 1))
    with opened(tmp_path / "in", data) as dump:
        assert [(part.paddr, part.end) for part in dump.guest.memory] == [(0, 0x1000), (0x2000, 0x7000)]
        assert dump.read(0x2000, 0x5000) == plain + text(0x2000, 1)
        assert dump.read(0x2001, 3) == plain[1:4]
        assert dump.image.warnings() == ()


def test_skipped_frames_and_frames_of_any_size(tmp_path: Path) -> None:
    """Source: Snappy's framing_format.txt: padding, skippable frames and identifiers may come anywhere."""
    first, second = text(100), random.Random(2).randbytes(60000)
    padding = b"\xfe\x05\0\0abcde\x80\x01\0\0x"
    stream = IDENTIFIER + padding + bytes(cramjam.snappy.compress(first)) + padding
    stream += bytes(cramjam.snappy.compress(second))
    data = header(0x1000, 0x1000 + 60099) + stream + struct.pack("<Q", len(stream))
    with opened(tmp_path / "in", data) as dump:
        assert dump.read(0x1000, 60100) == first + second
        assert dump.image.warnings() == ()


@pytest.mark.parametrize("cut", [1, 8, 9, 5000, 100_000, 150_000])
def test_a_cut_file_reads_what_is_there(cut: int, truth: dict[int, bytes], tmp_path: Path) -> None:
    data = sample("blocks-of-256k.avml")
    with opened(tmp_path / "in", data[:-cut]) as dump:
        held = dump.stated.memory.ranges().subtract(dump.image.unreadable())
        for start, end in held:
            base = 0 if start < 0x100000 else 0x100000
            assert dump.read(start, end - start) == truth[base][start - base : end - base]
        assert bool(dump.image.unreadable()) == (cut > 8)
        assert dump.image.warnings()


def test_a_damaged_frame_is_lost_and_no_other(truth: dict[int, bytes], tmp_path: Path) -> None:
    data = bytearray(sample("two-ranges.avml"))
    data[data.index(IDENTIFIER) + 200] ^= 1  # within the first frame's data: its checksum differs
    with opened(tmp_path / "in", bytes(data)) as dump:
        with pytest.raises(DamagedPageError, match="does not decompress"):
            dump.read(0, 4096)
        assert dump.read(FRAME, FRAME) == truth[0][FRAME : 2 * FRAME]
    report = pydump.dump(tmp_path / "in", tmp_path / "out", format="elf", arch="x86_64")
    assert (report.complete, report.unreadable_size) == (False, FRAME)


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (header(0x5000, 0x5FFF, version=3), "no AVML header"),
        (header(0x5000, 0x4FFF), "before it begins"),
        (header(0, (1 << 64) - 1), "too large"),
        (header(0, 1 << 62), "too large"),
        (header(0x5000, 0x5FFF)[:31], "within a header"),
        (header(0x5000, 0x5FFF) + IDENTIFIER[:-1] + b"y", "identifier is damaged"),
        (header(0x5000, 0x5FFF) + IDENTIFIER + b"\x02\x01\0\0x", "type 0x2, which is unknown"),
        (header(0x5000, 0x5FFF) + IDENTIFIER + b"\0\x09\0\0" + bytes(9), "frame is damaged"),
        (header(0x5000, 0x5FFF) + IDENTIFIER + b"\x01\xff\xff\xff", "within a block"),
        (bytes(4096), "no AVML header"),
    ],
)
def test_damage_behind_a_block_ends_the_file(second: bytes, why: str, tmp_path: Path) -> None:
    with opened(tmp_path / "in", block(0x1000, text(4096)) + second) as dump:
        assert dump.read(0x1000, 4096) == text(4096)
        assert why in dump.image.warnings()[0]


@pytest.mark.parametrize("head", [header(0x5000, 0x4FFF), header(0, 1 << 63), header(0, 0xFFF)[:31]])
def test_a_file_without_a_block_is_refused(head: bytes, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="before it begins|too large|within a header"):
        opened(tmp_path / "in", head)


def test_blocks_over_each_other(tmp_path: Path) -> None:
    data = block(0x1000, text(8192, 1)) + block(0x2000, text(8192, 2))
    with opened(tmp_path / "in", data) as dump:
        assert dump.read(0x1000, 8192) == text(8192, 1)
        assert dump.image.unreadable() == Ranges.of([(0x3000, 0x4000)])
        assert any("overlap" in line for line in dump.image.warnings())


def test_a_length_that_is_not_the_streams_is_said(tmp_path: Path) -> None:
    whole = block(0, text(4096))
    with opened(tmp_path / "in", whole[:-8] + struct.pack("<Q", 7)) as dump:
        assert dump.read(0, 4096) == text(4096)
        assert "and 7 are stated" in dump.image.warnings()[0]


def test_random_damage_gives_memory_or_an_error(tmp_path: Path) -> None:
    data = block(0, text(70000)) + block(0x20000, random.Random(3).randbytes(5000) + bytes(70000))
    chance = random.Random(1)
    for _ in range(int(os.environ.get("PYDUMP_CUTS", "50"))):
        broken = bytearray(data)
        for _ in range(2):
            at = chance.randrange(60) if chance.random() < 0.5 else chance.randrange(len(data))
            broken[at] = chance.randrange(256)
        with contextlib.suppress(PydumpError), opened(tmp_path / "in", bytes(broken)) as dump:
            for start, end in dump.stated.memory.ranges().subtract(dump.image.unreadable()):
                with contextlib.suppress(PydumpError):
                    dump.read(start, min(end - start, 1 << 20))
