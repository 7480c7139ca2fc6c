"""Guests that QEMU saved, in every container that QEMU writes: equal to QEMU's own dump, and open in drgn."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from judges import Tasks, drgn_tasks, require
from lab.boot import Guest
from lab.live import COUNTERS, SUITES, Live, live_guest, qemu_of, require_snapshots

import pydump as api

#: Guests of these architectures boot.
BOOTED = ("x86_64", "x86_64-high", "aarch64", "s390x", "ppc64", "riscv64", "i386", "arm")
#: What a stream does not say of a machine.
PLACES = {"x86_64-high": "ram=0,0,128M+ram=4G,128M,128M"}


def assert_same(saved: Path, qemus: Path, **options: str) -> None:
    """Check that memory, RAM and notes are those of QEMU's dump."""
    with api.open(saved, options={"qemu": options}) as ours, api.open(qemus) as theirs:
        assert ours.guest.memory.ranges() == theirs.guest.memory.ranges()
        assert ours.guest.notes == theirs.guest.notes
        assert not ours.image.unreadable() and not ours.image.warnings()
    assert api.compare(saved, qemus, options={"qemu": options}, workers=2).same


@pytest.mark.parametrize("arch", BOOTED)
def test_the_stream_of_a_booted_guest_opens_in_drgn_with_all_stacks(
    arch: str, guest: Callable[[str], Guest], tmp_path: Path
) -> None:
    booted = guest(arch)
    options = {"place": PLACES[arch]} if arch in PLACES else {}
    assert_same(booted.stream, booted.elf, **options)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    report = api.dump(booted.stream, ours, options={"qemu": options}, sync=False, workers=2)
    api.dump(booted.elf, theirs, sync=False, workers=2)
    assert ours.read_bytes() == theirs.read_bytes()
    assert not report.unreadable_size
    if arch == "i386":
        return  # VMCOREINFO of an i386 kernel does not say by how much its addresses are shifted: drgn finds no tasks
    seen = drgn_tasks(ours, booted.vmlinux)
    assert isinstance(seen, Tasks), seen
    # The guest counted its own processes just before it stopped, idle tasks not included.
    counted = int(booted.console.split("LAB tasks ")[1].split()[0])
    assert counted - 8 <= seen.tasks <= counted + 2
    for stack in seen.task_stacks:
        if arch == "riscv64":
            assert "not supported for RISC-V" in stack  # drgn cannot unwind there, in any file
        else:  # it sleeps, or a CPU runs it
            assert "__schedule" in stack or stack in seen.stacks


def stopped(live: Live, qemus: Path) -> None:
    """Stop a guest and have QEMU dump it."""
    live.qmp.command("stop")
    live.qmp.command("dump-guest-memory", paging=False, protocol=f"file:{qemus}")


@pytest.fixture(params=SUITES)
def qemu(request: pytest.FixtureRequest, lab: Path) -> tuple[str, ...]:
    """What stands before a program of QEMU's."""
    return qemu_of(request.param, lab)


@pytest.mark.parametrize("arch", COUNTERS)
def test_a_stream_equals_qemus_dump(arch: str, qemu: tuple[str, ...], tmp_path: Path) -> None:
    saved, qemus = tmp_path / "saved", tmp_path / "qemus"
    with live_guest(tmp_path, arch, memory=256 if arch == "ppc64" else 64, qemu=qemu) as live:
        stopped(live, qemus)
        live.qmp.migrate(f"exec:cat > {saved}")
    assert_same(saved, qemus)


@pytest.mark.parametrize("capabilities", [("mapped-ram",), ("mapped-ram", "multifd")], ids="-".join)
@pytest.mark.parametrize("arch", ["x86_64", "aarch64", "s390x", "riscv64"])
def test_mapped_ram_equals_qemus_dump(arch: str, capabilities: tuple[str, ...], lab: Path, tmp_path: Path) -> None:
    saved, qemus = tmp_path / "saved", tmp_path / "qemus"
    suite = next((suite for suite in SUITES if suite != "own"), "trixie")
    with live_guest(tmp_path, arch, qemu=qemu_of(suite, lab)) as live:
        stopped(live, qemus)
        live.qmp.migrate(f"file:{saved}", *capabilities)
    assert_same(saved, qemus)


def test_a_stream_of_a_background_snapshot_is_of_its_moment(qemu: tuple[str, ...], tmp_path: Path) -> None:
    require_snapshots()
    saved, qemus = tmp_path / "saved", tmp_path / "qemus"
    with live_guest(tmp_path, qemu=qemu) as live:
        stopped(live, qemus)
        live.qmp.migrate(f"exec:cat > {saved}", "background-snapshot")
    assert_same(saved, qemus)


def test_snapshots_in_a_qcow2_file_equal_qemus_dump(qemu: tuple[str, ...], tmp_path: Path) -> None:
    disk, qemus = tmp_path / "disk.qcow2", tmp_path / "qemus"
    require(shutil.which("qemu-img"), "qemu-img", "apt install qemu-utils")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True, timeout=60)
    drive = ("-drive", f"if=none,id=disk,format=qcow2,file={disk}")
    with live_guest(tmp_path, arguments=drive, qemu=qemu) as live:
        assert live.is_running()
        assert not live.qmp.monitor("savevm running")
        stopped(live, qemus)
        assert not live.qmp.monitor("savevm stopped")
    assert_same(disk, qemus, snapshot="stopped")
    with api.open(disk, options={"qemu": {"snapshot": "running"}}) as dump:
        assert dump.cpus
