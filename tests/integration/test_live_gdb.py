"""Guests of QEMU that are read through its gdb stub: the same as QEMU's own dump, and they go on as they were."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab.boot import MACHINES, Guest, continued, running
from lab.live import SUITES, Live, free_port, live_guest, qemu_of, wait_for

import pydump as api
from gdb_stub import serving
from pydump.model.memory import Ranges
from pydump_source_gdb.wire import Wire, framed

Pydump = Callable[..., subprocess.CompletedProcess[str]]
#: Bytes that are dumped of a guest that has more.
PART = 64 << 20
#: Where the RAM of a SiFive board begins; below, it has 256 MiB of flash memory.
SIFIVE_RAM = 0x80000000
#: How often pydump is killed.
KILLS = 4
#: Registers that QEMU's notes have and its stub does not give without KVM, or gives otherwise: the PSW of QEMU's note
#: lacks the condition code, and its descriptors' flags have parts of the address in them.
OTHERWISE = {
    "s390x": ("prefix", "timer", "todcmp", "todpreg", "psw_mask"),
    "ppc64": ("spe_acc", "spefscr", *(f"evr{i}" for i in range(32))),
}


@contextlib.contextmanager
def stub_guest(
    directory: Path, arch: str = "x86_64", *arguments: str, qemu: tuple[str, ...] = (), port: int = 0
) -> Iterator[Live]:
    """A guest with a stub at ``gdb.sock`` in the directory, or at a port."""
    where = f"port={port},host=127.0.0.1" if port else f"path={directory}/gdb.sock"
    stub = ("-chardev", f"socket,id=gdb,{where},server=on,wait=off", "-gdb", "chardev:gdb")
    memory = 256 if arch == "ppc64" else 64
    with live_guest(directory, arch, memory=memory, arguments=(*stub, *arguments), qemu=qemu) as guest:
        yield guest


@pytest.mark.parametrize("arch", ["x86_64", "aarch64", "arm", "i386", "s390x", "ppc64", "riscv64"])
def test_a_guest_through_its_stub_is_as_qemu_dumps_it(tmp_path: Path, pydump: Pydump, arch: str) -> None:
    ours, qemus = tmp_path / "ours", tmp_path / "qemus"
    part = (
        ("--begin", "0", "--length", str(PART)) if arch == "ppc64" else ()
    )  # no pseries machine has less than 128 MiB
    port = free_port() if arch == "aarch64" else 0
    stub = f"gdb:127.0.0.1:{port}" if port else f"gdb:{tmp_path}/gdb.sock"
    with stub_guest(tmp_path, arch, port=port) as guest:
        assert guest.is_running()
        guest.qmp.command("stop")
        pydump("dump", "--format", "elf", *part, stub, ours)
        assert guest.state == "paused"
        guest.qmp.command("dump-guest-memory", paging=False, protocol=f"file:{qemus}")
    check_same(ours, qemus, arch, (0, PART) if part else None)


def check_same(ours: Path, qemus: Path, arch: str, part: tuple[int, int] | None = None) -> None:
    """Check that two dumps have the same memory and registers, but for what the stub does not give.

    Args:
        ours: Ours.
        qemus: QEMU's.
        arch: The guest's.
        part: ``(start, end)`` of the memory that ours has; None where it has all.
    """
    with api.open(str(ours)) as a, api.open(str(qemus)) as b:
        ram = b.stated.memory.ranges()
        assert a.stated.memory.ranges() == (ram if part is None else ram.clip(*part))
        assert (a.guest.arch, a.guest.byte_order) == (b.guest.arch, b.guest.byte_order)
        for block in a.stated.memory:
            for at in range(block.paddr, block.end, 1 << 20):
                size = min(1 << 20, block.end - at)
                assert a.read(at, size) == b.read(at, size), hex(at)
        assert len(a.cpus) == len(b.cpus)
        for one, other in zip(a.cpus, b.cpus, strict=True):
            for name in OTHERWISE.get(arch, ()):
                assert other.registers[name] == 0 or name == "psw_mask"
            same = {name: value for name, value in other.registers.items() if name not in OTHERWISE.get(arch, ())}
            assert {name: one.registers.get(name) for name in same} == same


def test_all_clusters_of_a_machine_are_read(tmp_path: Path, pydump: Pydump) -> None:
    """A SiFive board has a small CPU in one cluster, and the others in a second one."""
    with stub_guest(tmp_path, "riscv64", "-machine", "sifive_u") as guest:
        assert wait_for(guest.is_running, 30)
        done = pydump("info", f"gdb:{tmp_path}/gdb.sock")
        assert "left out" not in done.stderr
        assert guest.is_running()
        guest.qmp.command("stop")
        part = ("--begin", hex(SIFIVE_RAM), "--length", "4M")
        pydump("dump", "--format", "elf", *part, f"gdb:{tmp_path}/gdb.sock", tmp_path / "ours")
        assert guest.state == "paused"
        guest.qmp.command("dump-guest-memory", paging=False, protocol=f"file:{tmp_path}/qemus")
    check_same(tmp_path / "ours", tmp_path / "qemus", "riscv64", (SIFIVE_RAM, SIFIVE_RAM + (4 << 20)))
    with api.open(str(tmp_path / "ours")) as dump:
        assert len(dump.cpus) == 2


def test_cpus_of_another_architecture_are_left_out_and_that_is_said(tmp_path: Path, pydump: Pydump) -> None:
    """A Xilinx board has 64-bit CPUs for Linux, and 32-bit ones beside them."""
    command = [
        MACHINES["aarch64"].qemu, "-machine", "xlnx-zcu102", "-smp", "6", "-m", "64M", "-nodefaults",
        "-display", "none", "-audiodev", "none,id=none", "-gdb", f"unix:{tmp_path}/gdb.sock,server=on,wait=off",
    ]  # fmt: skip
    with running(command, tmp_path) as (qmp, _):
        done = pydump("info", f"gdb:{tmp_path}/gdb.sock")
        assert qmp.command("query-status")["running"]
    assert "the registers of 2 of 6 CPUs are left out: they are 'arm', not 'aarch64'" in done.stderr
    assert re.search(r"^CPUs +4$", done.stdout, re.M)


@pytest.fixture(scope="module", params=SUITES)
def states(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, lab: Path) -> Iterator[Live]:
    """A guest of each QEMU, before its start."""
    directory = tmp_path_factory.mktemp("states")
    with stub_guest(directory, "x86_64", "-S", qemu=qemu_of(request.param, lab)) as guest:
        yield guest


def source(guest: Live) -> str:
    """What pydump calls a guest."""
    return f"gdb:{guest.socket.parent}/gdb.sock"


def says_nothing(guest: Live) -> bool:
    """Whether its QEMU does not say that it has stopped a guest which ran."""
    version = guest.qmp.command("query-version")["qemu"]
    return (version["major"], version["minor"]) >= (8, 1)


def test_a_guest_is_afterwards_as_it_was(states: Live, pydump: Pydump) -> None:
    assert states.state == "prelaunch"
    pydump("read", source(states), "0", "16")
    assert states.state == "prelaunch"
    states.qmp.command("cont")
    done = pydump("info", source(states))
    assert states.is_running()
    assert ("the stub does not say" in done.stderr) is says_nothing(states)
    states.qmp.command("stop")
    pydump("read", source(states), "0", "16", *(("--gdb-after", "pause") if says_nothing(states) else ()))
    assert states.state == "paused"
    states.qmp.command("cont")


def test_sockets_that_are_mixed_up_harm_no_guest(states: Live, pydump: Pydump) -> None:
    """QEMU pauses a guest when somebody connects to its stub, whatever they take it for."""
    states.qmp.command("cont")
    assert states.is_running()
    stub = states.socket.parent / "gdb.sock"
    done = pydump("info", f"qmp:{stub}", expect=1)
    assert f"{stub} is a gdb stub and no monitor; its guest runs; gdb:{stub} reads through a stub" in done.stderr
    assert states.is_running()
    states.qmp.command("stop")
    done = pydump("info", f"qmp:{stub}", expect=1)
    assert says_nothing(states) or "its guest stays as it was" in done.stderr
    assert says_nothing(states) or states.state == "paused"
    states.qmp.command("cont")
    done = pydump("info", f"gdb:{states.socket}", expect=1)
    assert "a monitor answers, and no gdb stub: give its socket to qmp:" in done.stderr
    assert states.is_running()


def through(wire: Wire, *, hidden: bytes = b"") -> Callable[[bytes], bytes]:
    """A stub before QEMU's that has neither its monitor nor physical memory, and zeros instead of what is hidden."""

    def answer(packet: bytes) -> bytes:
        if packet.startswith((b"qqemu", b"Qqemu", b"qRcmd")):
            return framed(b"")
        said = b"OK" if packet[:1] == b"D" else wire.ask(packet)
        if hidden:
            said = said.replace(hidden.hex().encode(), bytes(len(hidden)).hex().encode())
        special = re.sub(rb"[$#}*]", lambda found: b"}" + bytes([found[0][0] ^ 0x20]), said)
        return framed(special)

    return answer


@contextlib.contextmanager
def linux_guest(linux: Guest, directory: Path) -> Iterator[Wire]:
    """The stub of a Linux guest with KASLR."""
    stub = ("-chardev", f"socket,id=gdb,path={directory}/gdb.sock,server=on,wait=off", "-gdb", "chardev:gdb")
    with continued(linux, directory, *stub), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(directory / "gdb.sock"))
        yield Wire(connection)


def test_a_stub_of_virtual_memory(guest: Callable[[str], Guest], tmp_path: Path, pydump: Pydump) -> None:
    """Where Linux maps RAM, and where RAM is, come from its registers and its memory."""
    linux = guest("x86_64")
    output, source = tmp_path / "vmcore", f"gdb:{tmp_path}/other.sock"
    with linux_guest(linux, tmp_path) as wire:
        with serving(tmp_path / "other.sock", through(wire)):
            by_firmware = json.loads(pydump("info", "--json", source).stdout)
        (tmp_path / "other.sock").unlink()
        with serving(tmp_path / "other.sock", through(wire, hidden=b"HdrS")):
            by_tables = json.loads(pydump("info", "--json", source).stdout)
        (tmp_path / "other.sock").unlink()
        with serving(tmp_path / "other.sock", through(wire)):
            done = pydump("dump", "--format", "elf", "--begin", "639K", "--length", "3457K", source, output)
    assert "the stub does not say whether the guest ran" in done.stderr
    # Linux maps the kibibyte below 640 KiB as well, which firmware keeps for itself.
    (low, *others), (all_low, *same) = by_firmware["memory"], by_tables["memory"]
    assert (low, all_low) == ({"paddr": 0, "size": 639 << 10}, {"paddr": 0, "size": 640 << 10})
    assert others == same and others
    ram = linux.ram.read_bytes()
    with api.open(str(output)) as dump, api.open(str(linux.elf)) as qemus:
        assert dump.stated.memory.ranges() == Ranges.of([(1 << 20, 4 << 20)])
        assert dump.read(1 << 20, 3 << 20) == ram[1 << 20 : 4 << 20]
        for one, other in zip(dump.cpus, qemus.cpus, strict=True):
            for name in ("rip", "rsp", "cr3", "gs_base", "rflags", "cs"):
                assert one.registers[name] == other.registers[name]


def keepers(directory: Path) -> list[str]:
    """The keeper processes of captures that were started with ``directory`` in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ours = f"PYDUMP_TEST_DIRECTORY={directory}\0".encode() in (process / "environ").read_bytes()
            if ours and b"keeper.py" in (process / "cmdline").read_bytes():
                found.append(process.name)
    return found


def test_a_killed_capture(states: Live, tmp_path: Path) -> None:
    states.qmp.command("cont")
    assert states.is_running()
    command = [sys.executable, "-m", "pydump", "dump", "--no-sync", source(states), str(tmp_path / "vmcore")]
    dice = random.Random(1)
    for attempt in range(KILLS):
        dump = subprocess.Popen(
            command,
            env={**os.environ, "PYDUMP_TEST_DIRECTORY": str(tmp_path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            assert wait_for(lambda: states.state == "paused", 30)
            time.sleep(dice.choice((0, 0.001, 0.01, dice.uniform(0, 0.5))))
            os.killpg(dump.pid, signal.SIGINT if attempt % 4 == 3 else signal.SIGKILL)
        finally:
            dump.wait(60)
        assert wait_for(states.is_running, 30), f"attempt {attempt}: it is {states.state}"
        assert wait_for(lambda: not keepers(tmp_path), 30), f"attempt {attempt}: a keeper stays"
        assert not (tmp_path / "vmcore").exists()
