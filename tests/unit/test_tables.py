"""Tables of a dump are in proportion to what its source holds: a file of a few KiB can claim terabytes of zeros."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest

import pydump
from pydump.errors import PlanError

TIB = 1 << 40


def sparse_elf(path: Path, ram: int, data: int = 0, *, flattened: bool = True) -> Path:
    """An ELF core of x86_64 with ``ram`` bytes of zeros behind ``data`` bytes of ones."""
    head = b"\x7fELF\2\1\1" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    head += struct.pack("<IIQQQQQQ", 1, 0, 4096, 0, 0, ram, ram, 0)
    with path.open("wb") as file:
        if not flattened:
            file.write(head.ljust(4096, b"\0") + b"\1" * data)
            file.truncate(4096 + ram)
            return path
        file.write(struct.pack("<16s", b"makedumpfile") + struct.pack(">qq", 1, 1) + bytes(4096 - 32))
        for offset, piece in ((0, head), (4096, b"\1" * data), (4096 + ram - 1, b"\0")):
            if piece:
                file.write(struct.pack(">qq", offset, len(piece)) + piece)
        file.write(struct.pack(">qq", -1, -1))
    return path


@pytest.mark.parametrize("ram", [6 * TIB, 64 * TIB])
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_small_file_that_claims_terabytes_is_refused(ram: int, dry_run: bool, tmp_path: Path) -> None:
    """24 bytes for each page of 4 KiB: diskdump_mod.h's page_desc."""
    source = sparse_elf(tmp_path / "in", ram, 4096)
    said = f"{ram // 4096 * 24 / 1e9:.0f} GB of tables are written for {ram >> 30} GiB of RAM"
    with pytest.raises(PlanError, match=said) as raised:
        pydump.dump(source, tmp_path / "out", dry_run=dry_run)
    assert f"--begin 0x0 --length {ram:#x}" in (raised.value.hint or "")
    assert not (tmp_path / "out").exists()


def test_who_names_the_range_gets_it(tmp_path: Path) -> None:
    source = sparse_elf(tmp_path / "in", 64 * TIB, 4096)
    report = pydump.dump(source, tmp_path / "out", begin=0, length=64 * TIB, dry_run=True)
    assert any("412 GB of tables" in line for line in report.warnings)
    report = pydump.dump(source, tmp_path / "out", begin=0, length=1 << 30, sync=False)
    assert report.ram_size == 1 << 30
    assert report.warnings == ()
    assert (tmp_path / "out").stat().st_size < 8 << 20


def test_elf_stores_the_zeros_as_a_hole(tmp_path: Path) -> None:
    report = pydump.dump(sparse_elf(tmp_path / "in", 4 * TIB, 4096), tmp_path / "out", format="elf", sync=False)
    assert report.stored_size == 4 * TIB
    assert (tmp_path / "out").stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("flattened", [True, False])
@pytest.mark.parametrize("data", [0, 1 << 20])
def test_a_sparse_guest_of_a_tib_is_written(data: int, flattened: bool, tmp_path: Path) -> None:
    report = pydump.dump(sparse_elf(tmp_path / "in", TIB, data, flattened=flattened), tmp_path / "out", dry_run=True)
    assert [line for line in report.warnings if "6 GB of tables are written for 1024 GiB of RAM" in line]


def test_dots_of_data_in_terabytes_of_zeros_are_compared_as_such(tmp_path: Path) -> None:
    """2000 pages with a byte each, 32 GiB apart: 8 MiB to read, and not 4 MiB for each."""
    sparse_elf(tmp_path / "zeros", 64 * TIB)
    data = bytearray((tmp_path / "zeros").read_bytes())
    for i in range(1, 2000):
        data[-16:-16] = struct.pack(">qq", 4096 + (i << 35), 1) + b"x"
    (tmp_path / "dots").write_bytes(data)
    began = time.process_time()
    report = pydump.compare(tmp_path / "zeros", tmp_path / "dots", workers=1)
    assert report.n_differences == 1999
    assert time.process_time() - began < 5
