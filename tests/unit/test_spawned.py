"""Scans and dumps by processes that inherit nothing and open the source for themselves."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pydump.builtin.local import LocalExecutor
from pydump.engine.compare import run_compare
from pydump.engine.exclude import zero_ranges
from pydump.engine.hashes import hash_memory
from pydump.engine.open import open_source
from pydump.engine.survey import run_survey
from pydump.engine.verify import run_verify
from pydump.engine.vmcoreinfo import find_vmcoreinfo
from pydump.errors import UnsupportedError
from pydump.interfaces.image import MemoryImage
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap
from pydump.process import start_time
from pydump.registry import installed
from pydump.testing import guests
from pydump.testing.executor import ExecutorTests
from pydump.testing.executors import SpawnedExecutor

PAGE = 4096
REGISTRY = installed()


@pytest.fixture(scope="module")
def spawned() -> Iterator[SpawnedExecutor]:
    with SpawnedExecutor() as executor:
        yield executor


@pytest.fixture
def ram(tmp_path: Path) -> Path:
    """9 MiB of memory, a MiB of zeros in it, with VMCOREINFO."""
    text = b"OSRELEASE=6.1.0\nPAGESIZE=4096\n"
    memory = bytearray(guests.memory(2304))
    memory[1 << 20 : 2 << 20] = bytes(1 << 20)
    memory[3 << 20 : (3 << 20) + PAGE] = text.ljust(PAGE, b"\0")
    (tmp_path / "ram").write_bytes(memory)
    return tmp_path / "ram"


@pytest.fixture
def image(ram: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryImage]:
    monkeypatch.chdir(ram.parent)  # a worker is elsewhere
    opened = open_source("raw:ram@0", REGISTRY)
    assert isinstance(opened, MemoryImage)
    with opened:
        yield opened


def test_scans_find_the_same(image: MemoryImage, ram: Path, spawned: SpawnedExecutor) -> None:
    ranges = image.guest().memory.ranges()
    other = ram.with_name("other")
    changed = bytearray(ram.read_bytes())
    changed[5 << 20] ^= 1
    other.write_bytes(changed)
    with open_source(f"raw:{other}@0", REGISTRY) as right:
        assert isinstance(right, MemoryImage)
        found = []
        for executor in (LocalExecutor(1), spawned):
            compared = run_compare(image, right, ("a", "b"), REGISTRY, executor=executor)
            verified = run_verify(image, "a", REGISTRY, executor=executor)
            found.append(
                [
                    compared.differences,
                    replace(verified, seconds=0.0),
                    run_survey(image, "a", image.guest(), 64, executor=executor).cells,
                    zero_ranges(image, ranges, PAGE, executor=executor),
                    find_vmcoreinfo(image, image.guest().memory, "little", executor=executor),
                    hash_memory(image, ranges, "sha256", page_size=PAGE, executor=executor),
                ]
            )
    assert found[0] == found[1]
    assert len(found[0][0]) == 1 and len(found[0][4]) == 1


class TestSpawned(ExecutorTests):
    executor = SpawnedExecutor


class TestLocal(ExecutorTests):
    executor = LocalExecutor
    argument = "2"


class Own(MemoryImage):
    """Memory that has no name."""

    def guest(self) -> Guest:
        return Guest(MemoryMap.of([(0, PAGE)]), byte_order="little")

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        buffer[:] = bytes(len(buffer))


def test_memory_that_only_this_process_has_is_refused(spawned: SpawnedExecutor) -> None:
    with pytest.raises(UnsupportedError, match="no other process can open"):
        zero_ranges(Own(), Own().guest().memory.ranges(), PAGE, executor=spawned)


def test_workers_end_with_a_process_that_is_killed() -> None:
    script = """if 1:
        import os, sys, time
        from pydump.testing.executors import SpawnedExecutor
        if __name__ == "__main__":
            executor = SpawnedExecutor(2)
            print(*{executor._pool.submit(os.getpid).result() for _ in range(9)}, flush=True)
            time.sleep(60)
        """
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert workers and all(start_time(pid) is not None for pid in workers)
        parent.kill()
    until = time.monotonic() + 30
    while any(start_time(pid) is not None for pid in workers) and time.monotonic() < until:
        time.sleep(0.01)
    assert [pid for pid in workers if start_time(pid) is not None] == []
