"""Hashes of an output, in the form that coreutils check, and of guest memory in any format."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import pydump
from pydump.errors import PlanError, PydumpError
from pydump.model.memory import Ranges
from pydump.testing.sources import Filtered, contents, guest, large

pytestmark = pytest.mark.slow

COREUTILS = pytest.mark.skipif(not shutil.which("sha256sum"), reason="sha256sum is missing: apt install coreutils")


def write(source: pydump.MemoryImage, path: Path | str, **options: Any) -> pydump.DumpReport:
    return pydump.dump(source, path, sync=False, **options)


def memory_hash(source: pydump.MemoryImage) -> str:
    """By the words of the manual."""
    state = hashlib.sha256()
    for block in source.guest().memory:
        for paddr in range(block.paddr, block.end, 4096):
            page = contents(source, paddr, 4096)
            if any(page):
                state.update(paddr.to_bytes(8, "little") + hashlib.sha256(page).digest())
    return state.hexdigest()


# --- of the output ---


@COREUTILS
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize(
    ("options", "how"),
    [
        ({"compression": "zlib"}, "read back"),
        ({"format": "elf"}, "read back"),
        ({"format": "elf", "options": {"elf": {"sparse": True}}}, "read back"),
        ({"format": "lime"}, "read back"),
        ({"flatten": True}, "while writing"),
    ],
    ids=["kdump", "elf", "sparse", "lime", "flattened"],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_coreutils_confirm_it(algorithm: Any, options: dict[str, Any], how: str, workers: int, tmp_path: Path) -> None:
    report = write(large(), tmp_path / "out", hash=algorithm, workers=workers, **options)
    assert report.hashes == (hashlib.new(algorithm, (tmp_path / "out").read_bytes()).hexdigest(),)
    assert (report.hash, report.hashed) == (algorithm, how)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", f"out.{algorithm}"]
    check = subprocess.run([f"{algorithm}sum", "-c", f"out.{algorithm}"], cwd=tmp_path, capture_output=True, text=True)
    assert (check.returncode, check.stdout) == (0, "out: OK\n"), check.stderr


@COREUTILS
@pytest.mark.parametrize("name", ["a b", "back\\slash", "new\nline", "ünïcode", "\udc80"])
def test_odd_names_are_written_as_coreutils_write_them(name: str, tmp_path: Path) -> None:
    write(guest("64-bit, little-endian"), tmp_path / name, hash="sha256")
    said = subprocess.run(["sha256sum", os.fsencode(name)], cwd=tmp_path, capture_output=True, check=True).stdout
    assert (tmp_path / f"{name}.sha256").read_bytes() == said


def test_a_pipe_has_it_in_the_report_alone(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        report = write(guest("64-bit, little-endian"), f"fd:{file.fileno()}", hash="sha256")
    assert report.hashes == (hashlib.sha256((tmp_path / "out").read_bytes()).hexdigest(),)
    assert report.hashed == "while writing"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_each_file_of_a_split_dump_has_its_own(tmp_path: Path) -> None:
    report = write(guest("64-bit, little-endian"), tmp_path / "part.%d", split=3, hash="sha256")
    parts = [tmp_path / f"part.{i}" for i in range(3)]
    assert report.hashes == tuple(hashlib.sha256(part.read_bytes()).hexdigest() for part in parts)
    for part, digest in zip(parts, report.hashes, strict=True):
        assert Path(f"{part}.sha256").read_text() == f"{digest}  {part.name}\n"


def test_a_hash_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out.sha256").write_text("somebody else's")
    for dry_run in (True, False):
        with pytest.raises(PlanError, match=r"out\.sha256 exists"):
            write(guest("64-bit, little-endian"), tmp_path / "out", hash="sha256", dry_run=dry_run)
    assert [path.name for path in tmp_path.iterdir()] == ["out.sha256"]
    report = write(guest("64-bit, little-endian"), tmp_path / "out", hash="sha256", force=True)
    assert (tmp_path / "out.sha256").read_text().startswith(report.hashes[0])


def test_no_output_without_its_hash(tmp_path: Path) -> None:
    def appear(milestone: str) -> None:
        if milestone == "captured":
            (tmp_path / "out.sha256").write_text("somebody else's")

    with pytest.raises(PydumpError, match=r"out\.sha256 appeared while the dump was written"):
        write(guest("64-bit, little-endian"), tmp_path / "out", hash="sha256", reached=appear)
    assert [path.name for path in tmp_path.iterdir()] == ["out.sha256"]


# --- of memory ---


@pytest.mark.parametrize("workers", [1, 2])
def test_memory_has_one_hash_in_every_format(workers: int, tmp_path: Path) -> None:
    source = large()
    wanted = memory_hash(source)
    for name, options in {
        "kdump": {"compression": "zlib"},
        "elf": {"format": "elf"},
        "lime": {"format": "lime"},
        "flat": {"flatten": True},
    }.items():
        report = write(source, tmp_path / name, hash_memory=True, workers=workers, **options)
        assert (report.hash, report.memory_hash, report.hashes) == ("sha256", wanted, ())
        arch = "x86_64" if name == "lime" else None
        assert pydump.verify(tmp_path / name, arch=arch, hash_memory=True, workers=workers).memory_hash == wanted


def test_pages_that_were_left_out_count_as_zeros(tmp_path: Path) -> None:
    source = Filtered(guest("64-bit, little-endian"), Ranges.of([(0x104000, 0x120000)]))
    assert write(source, tmp_path / "out", hash_memory=True).memory_hash == memory_hash(source)


def test_memory_that_ends_within_a_page_is_filled_up_with_zeros(tmp_path: Path) -> None:
    memory = b"x" * 5000
    facts = guest("64-bit, little-endian").guest()
    source = pydump.BytesImage(facts, {0x1000: memory})
    state = hashlib.sha256()
    for paddr, page in ((0x1000, memory[:4096]), (0x2000, memory[4096:].ljust(4096, b"\0"))):
        state.update(paddr.to_bytes(8, "little") + hashlib.sha256(page).digest())
    for options in ({"format": "elf"}, {"compression": "zlib"}):
        report = write(source, tmp_path / "out", hash_memory=True, force=True, **options)
        assert report.memory_hash == state.hexdigest()
        assert pydump.verify(tmp_path / "out", hash_memory=True).memory_hash == state.hexdigest()


def test_no_hash_is_made_unless_it_is_asked_for(tmp_path: Path) -> None:
    report = write(guest("64-bit, little-endian"), tmp_path / "out")
    assert (report.hash, report.hashed, report.hashes, report.memory_hash) == (None, None, (), None)
    assert pydump.verify(tmp_path / "out").memory_hash is None
