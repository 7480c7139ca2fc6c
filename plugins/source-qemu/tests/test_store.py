"""Room for captured memory, and how much of it there is."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from pydump.model.memory import Ranges
from pydump_source_qemu import store

MIB = 1 << 20


@pytest.mark.parametrize("on_disk", [False, True])
def test_zeros_of_a_stream_take_no_room(tmp_path: Path, on_disk: bool) -> None:
    random_page, zeros = random.Random(1).randbytes(4096), bytes(4096)
    data = zeros + random_page * 2 + zeros * 3 + random_page + zeros + b"end"
    kept = store.Store(Ranges.of([(0x800, 0x800 + MIB)]), str(tmp_path) if on_disk else None)
    try:
        assert kept.take(0x800, memoryview(data)) == [(0x1800, 0x3800), (0x6800, 0x7800), (0x8800, 0x8803)]
        buffer = bytearray(len(data))
        kept.read_into(0x800, memoryview(buffer))
        assert buffer == data
        if on_disk:
            assert os.fstat(kept._fd).st_blocks * 512 < MIB // 2
    finally:
        kept.close()


#: Names of cgroups(7), cgroup-v1/memory.rst and cgroup-v2.rst.
GROUPS = {
    "version 1": (
        "12:pids:/job\n4:memory:/job/a\n1:name=systemd:/job/a\n",
        "memory/job/memory.limit_in_bytes",
        "memory/job/memory.usage_in_bytes",
    ),
    "with others": ("5:cpu,memory:/job\n", "memory/job/memory.limit_in_bytes", "memory/job/memory.usage_in_bytes"),
    "version 2": ("0::/job/a\n", "job/memory.max", "job/memory.current"),
}


@pytest.mark.parametrize("kind", GROUPS)
def test_a_limit_of_the_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    membership, limit, usage = GROUPS[kind]
    (tmp_path / "membership").write_text(membership)
    for name, value in ((limit, 5 * MIB), (usage, 2 * MIB)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{value}\n")
    monkeypatch.setattr(store, "_CGROUPS", tmp_path)
    monkeypatch.setattr(store, "_MEMBERSHIP", tmp_path / "membership")
    assert store.spare_memory() == 3 * MIB


def test_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "membership").write_text("0::/job\n")
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "memory.max").write_text("max\n")
    monkeypatch.setattr(store, "_CGROUPS", tmp_path)
    monkeypatch.setattr(store, "_MEMBERSHIP", tmp_path / "membership")
    assert store.spare_memory() > 3 * MIB


def test_a_store_may_be_larger_than_the_host(tmp_path: Path) -> None:
    size = (os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) * 2
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2":
        pytest.skip("this host reserves all memory that is mapped: vm.overcommit_memory=2")
    kept = store.Store(Ranges.of([(0, size)]))
    kept.part(size - 4, 4)[:] = b"last"
    kept.close()


def test_a_store_that_cannot_be_mapped_is_no_room(tmp_path: Path) -> None:
    with pytest.raises(store.NoRoomError, match="memory cannot hold"):
        store.Store(Ranges.of([(0, 1 << 62)]))
    with pytest.raises(store.NoRoomError, match="cannot hold 1 MiB: No such file"):
        store.Store(Ranges.of([(0, MIB)]), str(tmp_path / "missing"))
