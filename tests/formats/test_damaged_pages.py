"""A page that does not decompress is lost, and no other: the dump says which, and that it is not complete."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

import pydump
from pydump.errors import DamagedPageError
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump.testing.guests import memory, text_page

pytestmark = pytest.mark.slow

PAGE = 4096
RAM = {0: bytes(memory(3000)), 1 << 30: b"".join(text_page(5000 + i) for i in range(64))}
#: Pages whose data is damaged: one, two neighbours, and one in the other RAM block.
PADDRS = (0x2000, 0x16000, (1 << 30) + 5 * PAGE, (1 << 30) + 6 * PAGE)
LOST = Ranges.of((paddr, paddr + PAGE) for paddr in PADDRS)
#: diskdump_mod.h: DUMP_DH_COMPRESSED_INCOMPLETE, in status, which is behind six names, padding and two longs.
INCOMPLETE, STATUS = 0x8, 8 + 4 + 6 * 65 + 6 + 16


@pytest.fixture(params=["zlib", "lzo"])
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A kdump in which the data of some pages was overwritten."""
    path = tmp_path / "in"
    source = pydump.BytesImage(Guest(MemoryMap(())), RAM)  # type: ignore[arg-type]
    pydump.dump(source, path, arch="x86_64", compression=request.param, workers=1, sync=False)
    data = bytearray(path.read_bytes())
    block, sub, bitmaps = struct.unpack_from("<iiI", data, 428)
    first = (1 + sub + bitmaps) * block
    for paddr in PADDRS:
        number = paddr // PAGE if paddr < 1 << 30 else 3000 + (paddr - (1 << 30)) // PAGE
        offset, size, flags = struct.unpack_from("<qII", data, first + 24 * number)
        assert flags, "a compressed page"
        data[offset : offset + size] = b"\xff" * size
    path.write_bytes(data)
    return path


def other(damaged: Path) -> str:
    """A compressor that the file does not use: its pages are read, and not taken over."""
    with pydump.open(damaged) as dump:
        described = dict(dump.image.describe())["compression"]
    return "zlib" if "zstd" in described else "zstd"


@pytest.mark.parametrize(("workers", "flatten"), [(1, False), (3, False), (3, True)])
def test_a_kdump_says_which_pages_are_damaged(workers: int, flatten: bool, damaged: Path, tmp_path: Path) -> None:
    report = pydump.dump(
        damaged, tmp_path / "out", compression=other(damaged), workers=workers, flatten=flatten, sync=False
    )
    assert not report.complete
    assert report.unreadable_size == LOST.size
    said = (
        f"{LOST.size} bytes in pages of the source are damaged, the first at paddr 0x2000: the output says so of each"
    )
    assert [line for line in report.warnings if line.startswith(said)]
    with pydump.open(tmp_path / "out") as dump:
        assert dump.image.unreadable() == LOST
        for start, data in RAM.items():
            for low, high in Ranges.of([(start, start + len(data))]).subtract(LOST):
                assert dump.read(low, high - low) == data[low - start : high - start]
    if not flatten:
        (status,) = struct.unpack_from("<I", (tmp_path / "out").read_bytes(), STATUS)
        assert status & INCOMPLETE


def test_damaged_pages_that_are_copied_are_not_counted_and_verify_finds_them(damaged: Path, tmp_path: Path) -> None:
    with pydump.open(damaged) as dump:
        compression = "lzo" if "lzo" in dict(dump.image.describe())["compression"] else "zlib"
    report = pydump.dump(damaged, tmp_path / "out", compression=compression, workers=1, sync=False)
    assert report.taken_size >= LOST.size
    assert report.complete
    assert pydump.verify(tmp_path / "out").n_faults >= len(PADDRS)


def test_any_number_of_workers_writes_the_same(damaged: Path, tmp_path: Path) -> None:
    for workers in (1, 3):
        pydump.dump(damaged, tmp_path / str(workers), compression=other(damaged), workers=workers, sync=False)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "3").read_bytes()


def test_an_elf_has_zeros_there(damaged: Path, tmp_path: Path) -> None:
    report = pydump.dump(damaged, tmp_path / "out", format="elf", sync=False)
    assert report.unreadable_size == LOST.size
    assert any("they are zero in the output" in line for line in report.warnings)
    with pydump.open(tmp_path / "out") as dump:
        assert all(dump.read(paddr, PAGE) == bytes(PAGE) for paddr in PADDRS)
        assert dump.read(0, 0x2000) == RAM[0][:0x2000]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_map_counts_damaged_pages_as_unreadable(workers: int, damaged: Path) -> None:
    report = pydump.survey(damaged, max_cells=64, workers=workers)
    unreadable = {cell.paddr: cell.unreadable_size for cell in report.cells if cell.unreadable_size}
    cells = [paddr // report.cell_size * report.cell_size for paddr in PADDRS]
    assert unreadable == {paddr: cells.count(paddr) * PAGE for paddr in cells}
    assert all(cell.ram_size == cell.zero_size + cell.data_size + cell.unreadable_size for cell in report.cells)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("side", [0, 1, 2])
def test_a_comparison_goes_on_past_damaged_pages(side: int, workers: int, damaged: Path, tmp_path: Path) -> None:
    """And still finds the page that differs."""
    changed = {start: bytearray(data) for start, data in RAM.items()}
    changed[0][5 * PAGE + 7] ^= 1
    good = pydump.BytesImage(Guest(MemoryMap(())), changed)  # type: ignore[arg-type]
    pydump.dump(good, tmp_path / "good", arch="x86_64", workers=1, sync=False)
    sides = [(damaged, tmp_path / "good"), (tmp_path / "good", damaged), (damaged, damaged)][side]
    report = pydump.compare(*sides, workers=workers)
    found = {d.paddr: (d.size, d.left, d.right) for d in report.differences if d.kind == "damaged"}
    assert found == {start: (end - start, side != 1, side != 0) for start, end in LOST}
    contents = [(d.paddr, d.offset) for d in report.differences if d.kind == "contents"]
    assert contents == ([] if side == 2 else [(5 * PAGE, 7)])
    assert report.compared_size == sum(map(len, RAM.values())) - LOST.size


def test_verify_names_all_and_reading_one_is_an_error(damaged: Path) -> None:
    report = pydump.verify(damaged)
    assert sum("does not decompress" in line for line in report.faults) == len(PADDRS)
    with pydump.open(damaged) as dump, pytest.raises(DamagedPageError, match="paddr 0x2000"):
        dump.read(0x1000, 0x3000)
