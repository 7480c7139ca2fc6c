"""The index of the bitmaps: of a remote file it is read in their place, and says what they say."""

from __future__ import annotations

import contextlib
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import pydump
from pydump.builtin.files import FileBacking
from pydump.errors import FormatError, PydumpError
from pydump.interfaces.image import MemoryImage
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump.registry import installed
from pydump_format_kdump.index import SMALLEST_CHUNK, Index, IndexEnd, read_index
from pydump_format_kdump.reader import KdumpImage

GIB = 1 << 30
PAGE = 4096


class Far(FileBacking):
    """A file of which is known what was fetched, and that says it is remote."""

    remote: ClassVar[bool] = True
    fetched = 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.fetched += len(buffer)
        super().read_into(offset, buffer)

    def data_ranges(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        yield offset, offset + size


def opened(path: Path) -> tuple[KdumpImage, Far]:
    file = Far(str(path), os.open(path, os.O_RDONLY))
    return KdumpImage([file], installed().decompressors()), file


class Filtered(MemoryImage):
    """A guest with 40 GiB of RAM, of which all but some pages were left out."""

    def __init__(self) -> None:
        draw = random.Random(1)
        pages = {0, *(draw.randrange(3 * GIB // PAGE) for _ in range(40)), 41 * GIB // PAGE - 1}
        pages |= {4 * GIB // PAGE + draw.randrange(37 * GIB // PAGE) for _ in range(300)}
        self.kept = Ranges.of((page * PAGE, (page + 1) * PAGE) for page in pages)

    def guest(self) -> Guest:
        return Guest(MemoryMap.of([(0, 3 * GIB), (4 * GIB, 37 * GIB)]), dump_level=31)

    def excluded(self) -> Ranges:
        return self.guest().memory.ranges().subtract(self.kept)

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        buffer[:] = np.arange(paddr, paddr + len(buffer), 8, dtype="<u8").data.cast("B")


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dump of it."""
    path = tmp_path_factory.mktemp("index") / "kdump"
    pydump.dump(Filtered(), path, arch="x86_64", no_vmcoreinfo=True, workers=1)
    return path


def test_the_index_says_what_the_bitmaps_say(dump: Path) -> None:
    with pydump.open(dump) as near, opened(dump)[0] as far:
        assert far.guest() == near.image.guest()
        assert near.image.excluded() == Filtered().excluded()
        assert far.absent_sizes() == (near.image.excluded().size, 0)
        for start, end in near.image.guest().memory.ranges().subtract(near.image.excluded()):
            assert [not ranges for ranges in far.absent(start, end)] == [True, True]
            buffer, wanted = bytearray(end - start), bytearray(end - start)
            far.read_into(start, memoryview(buffer))
            Filtered().read_into(start, memoryview(wanted))
            assert buffer == wanted
        absent = far.absent(0, 5 * GIB)
        assert absent[0] == near.image.excluded().clip(0, 5 * GIB)
        assert far.excluded() == near.image.excluded()
        assert far.unreadable() == near.image.unreadable() == Ranges.empty()


def test_little_is_fetched_of_a_remote_file(dump: Path) -> None:
    image, file = opened(dump)
    with image:
        image.guest(), image.describe(), image.warnings(), image.absent_sizes()
        assert file.fetched < 32 << 10
        buffer = bytearray(PAGE)
        image.read_into(41 * GIB - PAGE, memoryview(buffer))
        assert struct.unpack_from("<Q", buffer) == (41 * GIB - PAGE,)
        assert file.fetched < 64 << 10


@pytest.mark.parametrize("at", [0.3, 0.6, 0.9, 0.99])
def test_a_cut_remote_file_says_so(dump: Path, tmp_path: Path, at: float) -> None:
    with pydump.open(dump) as near:
        bitmaps = near.image._headers.bitmaps
    data = dump.read_bytes()
    (tmp_path / "cut").write_bytes(data[: bitmaps + int(at * (len(data) - bitmaps))])
    with pydump.open(tmp_path / "cut") as near, opened(tmp_path / "cut")[0] as far:
        assert far.warnings() == near.image.warnings() != ()
        assert far.unreadable() == near.image.unreadable()
        assert far.absent_sizes() == (near.image.excluded().size, near.image.unreadable().size)


def test_an_index_that_lies_is_found_out(dump: Path, tmp_path: Path) -> None:
    data = bytearray(dump.read_bytes())
    with pydump.open(dump) as near:
        headers = near.image._headers
    second = headers.bitmaps + (headers.descs - headers.bitmaps) // 2
    data[second] ^= 1  # the bit of page 0, which is there
    (tmp_path / "lies").write_bytes(data)
    with opened(tmp_path / "lies")[0] as far, pytest.raises(FormatError, match="2nd bitmap is not what its index says"):
        far.read_into(0, memoryview(bytearray(PAGE)))
    report = pydump.verify(tmp_path / "lies", workers=1)
    assert any("a bitmap is damaged: its index is used" in line for line in report.faults)


def test_a_damaged_index_is_not_used(dump: Path, tmp_path: Path) -> None:
    with pydump.open(dump) as near:
        end, guest = near.image._headers.bitmaps, near.image.guest()
    draw = random.Random(2)
    data = dump.read_bytes()
    for _ in range(20):
        damaged = bytearray(data)
        damaged[end - 1 - draw.randrange(IndexEnd.nbytes() + 32)] ^= 1 << draw.randrange(8)
        (tmp_path / "damaged").write_bytes(damaged)
        with opened(tmp_path / "damaged")[0] as far:
            assert far.guest() == guest


@pytest.mark.parametrize("order", ["little", "big"])
def test_an_index_is_read_as_it_was_written(order: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    edges = np.unique(draw.integers(0, 1 << 24, 4000)).reshape(-1)[:3000]
    dumped = Ranges.of_array(edges.reshape(-1, 2))
    index = Index.of(Ranges.of([(0, 1 << 23), (3 << 22, 1 << 24)]), dumped, 1 << 24)
    packed = index.pack(order)  # type: ignore[arg-type]
    (tmp_path / "file").write_bytes(bytes(100) + packed)
    with Far("file", os.open(tmp_path / "file", os.O_RDONLY)) as file:
        found = read_index(file, 100 + len(packed), 1 << 24, order)  # type: ignore[arg-type]
    assert found is not None
    assert (found.ram, found.n_dumped, found.chunk_bits) == (index.ram, dumped.size, SMALLEST_CHUNK * 8)
    for chunk, before in zip(found.chunks.tolist(), found.before.tolist(), strict=True):
        assert before == dumped.clip(0, chunk * found.chunk_bits).size


def test_a_small_dump_has_no_index(tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(bytes(1 << 20))
    pydump.dump(f"raw:{tmp_path / 'ram'}@0", tmp_path / "out", arch="x86_64", no_vmcoreinfo=True, workers=1)
    assert b"PYDUMPIX" not in (tmp_path / "out").read_bytes()


def test_random_index_ends_give_an_error_or_nothing(tmp_path: Path) -> None:
    draw = random.Random(4)
    path = tmp_path / "file"
    for _ in range(200):
        end = IndexEnd(b"PYDUMPIX", *(draw.choice((0, 1, 1 << 14, draw.getrandbits(32))) for _ in range(2)), 1, 1 << 14)
        path.write_bytes(draw.randbytes(4096) + end.pack("little"))
        with Far("file", os.open(path, os.O_RDONLY)) as file, contextlib.suppress(PydumpError):
            assert read_index(file, path.stat().st_size, 1 << 20, "little") is None
