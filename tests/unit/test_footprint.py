"""Memory stays flat whatever the guest's size, and nothing is left behind when a run fails."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest

import pydump
from benchmarks.measure import peak_memory
from pydump.errors import PydumpError
from pydump.testing import guests

pytestmark = pytest.mark.slow

MIB = 1 << 20
GIB = 1 << 30


def sparse_ram(path: Path, size: int) -> dict[int, bytes]:
    """A sparse file with 64 MiB of data spread over it; returns what is where."""
    chunk = b"".join(guests.text_page(i) + guests.random_page(i) for i in range(128))
    places = {size // 64 * i // 4096 * 4096: chunk for i in range(64)}
    with path.open("wb") as file:
        file.truncate(size)
        for at, data in places.items():
            file.seek(at)
            file.write(data)
    return places


@pytest.mark.parametrize(
    ("size", "options", "limit"),
    [
        (4 * GIB, ["--compression", "zlib"], 300),
        (64 * GIB, ["--compression", "zlib"], 400),
        (64 * GIB, ["--compression", "zlib", "--dedup"], 400),
        (4 * GIB, ["--format", "elf"], 300),
    ],
    ids=["4G", "64G", "64G-dedup", "4G-elf"],
)
def test_peak_memory_does_not_grow_with_the_guest(tmp_path: Path, size: int, options: list[str], limit: int) -> None:
    ram, out = tmp_path / "ram", tmp_path / "out"
    places = sparse_ram(ram, size)
    command = [sys.executable, "-m", "pydump", "dump", "--arch", "x86_64", "--no-sync", "--quiet", *options]
    peak = peak_memory([*command, f"raw:{ram}[0:]", str(out)])
    assert 10 * MIB < peak < limit * MIB
    with pydump.open(str(out)) as vmcore:
        assert vmcore.stated.memory.size == size
        for at, data in places.items():
            assert vmcore.read(at, len(data) + 8192) == data + bytes(8192)


def shared_memory() -> set[str]:
    """What lies in /dev/shm, and the shared anonymous memory that this process has mapped."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return set(os.listdir("/dev/shm")) | {line.split()[0] for line in maps if "/dev/zero" in line or "memfd" in line}


def children() -> set[str]:
    """The processes that this one has: of other tests, those that share a guest, there may be some."""
    texts = [Path(f"/proc/self/task/{task}/children").read_text() for task in os.listdir("/proc/self/task")]
    return set("".join(texts).split())


@pytest.mark.parametrize("flatten", [False, True])
def test_nothing_is_left_in_memory_after_a_failure(tmp_path: Path, flatten: bool) -> None:
    ram = tmp_path / "ram"
    sparse_ram(ram, 256 * MIB)
    before, others = shared_memory(), children()
    with pytest.raises(PydumpError):
        pydump.dump(f"raw:{ram}[0:]", "/dev/full", arch="x86_64", workers=3, flatten=flatten)
    assert children() <= others
    gc.collect()
    assert shared_memory() == before
