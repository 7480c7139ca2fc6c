"""Stubs of other programs than QEMU: OpenOCD's reads a machine, and those of a process are refused."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from judges import program
from lab.jtag import DCSR, RAM, SATP, SIZE, Hart, openocd
from lab.live import free_port, wait_for

import pydump as api

Pydump = Callable[..., subprocess.CompletedProcess[str]]
WHERE = ("--gdb-ram", f"{RAM:#x}-{RAM + SIZE:#x}")
#: Supervisor mode, and page tables that map nothing: sv39 with a table in the RAM's pattern.
PAGING = {DCSR: 4 << 28 | 1, SATP: 8 << 60 | (RAM >> 12)}


@pytest.fixture(params=[{}, PAGING], ids=["no-paging", "paging"])
def hart(request: pytest.FixtureRequest) -> Hart:
    """A hart that runs."""
    hart = Hart()
    hart.registers |= request.param
    return hart


def test_openocd_gives_physical_memory_and_registers(hart: Hart, tmp_path: Path, pydump: Pydump) -> None:
    """OpenOCD leaves a target halted when a debugger detaches; pydump does not."""
    output = tmp_path / "vmcore"
    with openocd(program("openocd", "openocd"), hart, tmp_path) as port:
        assert not hart.halted
        pydump("dump", "--format", "elf", *WHERE, f"gdb:127.0.0.1:{port}", output)
        assert not hart.halted
        done = pydump("read", *WHERE, f"gdb:127.0.0.1:{port}", f"{RAM + 0x123:#x}", "7", "--hex")
        assert "23 24 25 26 27 28 29" in done.stdout
        pydump("read", "--gdb-after", "pause", *WHERE, f"gdb:127.0.0.1:{port}", f"{RAM:#x}", "4")
        assert hart.halted
    with api.open(str(output)) as dump:
        assert dump.guest.arch == "riscv64"
        assert dump.read(RAM, SIZE) == hart.memory
        assert dump.cpus[0].registers["t6"] == hart.registers[0x101F]
        assert dump.cpus[0].registers["pc"] == RAM + 0x100


def test_a_target_that_openocd_cannot_resume_is_an_error(tmp_path: Path, pydump: Pydump) -> None:
    hart = Hart()
    with openocd(program("openocd", "openocd"), hart, tmp_path) as port:
        hart.stuck = True
        done = pydump("read", *WHERE, f"gdb:127.0.0.1:{port}", f"{RAM:#x}", "4", expect=1)
    assert "the guest may be paused: OpenOCD says that the target is halted" in done.stderr


@contextlib.contextmanager
def gdbserver(port: int) -> Iterator[subprocess.Popen[str]]:
    """A process that waits for a debugger under gdbserver."""
    command = [program("gdbserver", "gdbserver"), "--once", f"127.0.0.1:{port}", "sleep", "60"]
    with _process(command) as process:
        yield process


@contextlib.contextmanager
def user_mode(port: int) -> Iterator[subprocess.Popen[str]]:
    """A process that waits for a debugger under QEMU's emulation of processes."""
    qemu = program("qemu-x86_64-static", "qemu-user-static")
    with _process([qemu, "-g", str(port), program("sleep", "coreutils"), "60"]) as process:
        yield process


@contextlib.contextmanager
def _process(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("stub", [gdbserver, user_mode])
def test_the_stub_of_a_process_is_refused(
    stub: Callable[[int], contextlib.AbstractContextManager[subprocess.Popen[str]]], pydump: Pydump
) -> None:
    """A process has no guest memory."""
    port = free_port()
    listens = f":{port:04X} 00000000:0000 0A"  # TCP_LISTEN. Source: Documentation/networking/proc_net_tcp.rst
    with stub(port):
        assert wait_for(lambda: listens in Path("/proc/net/tcp").read_text(), 30)
        done = pydump("info", f"gdb:127.0.0.1:{port}", expect=2)
    assert "the stub belongs to a process, which has no guest memory" in done.stderr
    assert "may be paused" not in done.stderr
