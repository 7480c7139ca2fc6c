"""Guests that run, to be captured: QEMU with a monitor for the test and one for pydump."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from judges import require
from lab.boot import MACHINES, Qmp, running

#: sweep.S, assembled and linked as it says there.
SWEEP = bytes.fromhex(
    "fa2e660f011658ff0f20c380cb010f22c366ea19ffffff0800bb100000008edb"
    "31c040bf00001000b930000000890781c700001000e2f6ebe98db400008d7400"
    "0000000000000000ffff0000009bcf00ffff00000093cf00170040ffffff"
).ljust(0xF0, b"\0") + bytes.fromhex("e90dff").ljust(16, b"\0")
#: FIRST, STEP and PAGES of sweep.S.
SWEPT = range(0x100000, 0x100000 + 48 * 0x100000, 0x100000)
#: A capture with these takes seconds.
SLOW = ("--compression", "zstd", "--zstd-level", "19", "--workers", "1", "--no-sync")


@dataclass(frozen=True)
class Live:
    """A guest under QEMU.

    Attributes:
        qmp: The test's monitor.
        socket: The monitor for pydump.
        process: QEMU.
    """

    qmp: Qmp
    socket: Path
    process: subprocess.Popen[bytes]

    @property
    def source(self) -> str:
        """What pydump calls it."""
        return f"qmp:{self.socket}"

    def is_running(self) -> bool:
        """Does it run, and not only by name? Its counter counts."""
        if not self.qmp.command("query-status")["running"]:
            return False
        before = self.counter()
        return wait_for(lambda: self.counter() != before)

    def counter(self) -> str:
        """What its program has counted to."""
        return self.qmp.monitor(f"xp /1wx {SWEPT[0]:#x}")

    def leftovers(self) -> list[str]:
        """What a capture must not leave behind in QEMU."""
        capabilities = self.qmp.command("query-migrate-capabilities")
        limit = self.qmp.command("query-migrate-parameters")["max-bandwidth"]
        left = [c["capability"] for c in capabilities if c["state"]] + ([f"{limit}"] if limit != 128 << 20 else [])
        objects = [child["name"] for child in self.qmp.command("qom-list", path="/objects")]
        return left + [name for name in objects if "pydump" in name]

    def stands(self) -> bool:
        """Has somebody stopped it, for longer than the registers take?"""
        return bool(self.qmp.command("query-status")["status"] == "paused")


@contextlib.contextmanager
def live_guest(
    directory: Path, arch: str = "x86_64", *, memory: int = 64, shared: bool = False, arguments: tuple[str, ...] = ()
) -> Iterator[Live]:
    """A guest of ``memory`` MiB: on x86_64 it runs sweep.S, elsewhere it never runs (-S)."""
    machine = MACHINES[arch]
    require(shutil.which(machine.qemu), machine.qemu, f"apt install {machine.package}")
    sock = directory / "pydump.sock"
    sock.unlink(missing_ok=True)
    command = [
        machine.qemu, "-nodefaults", "-display", "none", "-no-reboot", "-accel", "tcg", "-m", f"{memory}M",
        "-qmp", f"unix:{sock},server=on,wait=off",
    ]  # fmt: skip
    board = machine.machine
    if shared:
        command += ["-object", f"memory-backend-memfd,id=ram,size={memory}M,share=on"]
        board += ",memory-backend=ram"
    if arch == "x86_64":
        firmware = directory / "sweep.bin"
        firmware.write_bytes(SWEEP.rjust(0x10000, b"\0"))
        command += ["-bios", str(firmware)]
    else:
        command += [*machine.arguments, "-smp", "2", "-S"]
    with running([*command, "-machine", board, *arguments], directory) as (qmp, process):
        assert wait_for(sock.exists)
        yield Live(qmp, sock, process)


def wait_for(condition: Callable[[], object], seconds: float = 10) -> bool:
    """Until it holds, but not for long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@contextlib.contextmanager
def heavy_guest(directory: Path, *, shared: bool = False, arguments: tuple[str, ...] = ()) -> Iterator[Live]:
    """A guest whose memory takes seconds to compress with :data:`SLOW`."""
    contents = directory / "contents"
    contents.write_bytes(random.Random(1).randbytes(48 << 20))
    load = ("-device", f"loader,file={contents},addr=0x4000000,force-raw=on")
    with live_guest(directory, memory=128, shared=shared, arguments=(*load, *arguments)) as guest:
        assert guest.is_running()
        yield guest


def free_port() -> int:
    """A port of this host's that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def require_snapshots() -> None:
    """Skip where QEMU may not write-protect its own memory."""
    allowed = os.geteuid() == 0 or Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip() == "1"
    require(allowed, "userfaultfd", "sysctl vm.unprivileged_userfaultfd=1, or run the tests as root")


def watchdog_of(pid: int) -> int | None:
    """The watchdog process that a process has started."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == pid and b"\0watchdog.py\0" in (process / "cmdline").read_bytes():
                return int(process.name)
        except (OSError, IndexError):
            continue
    return None


def swept(read: Callable[[int, int], bytes]) -> list[int]:
    """The counter that each page of the sweep holds."""
    return [int(struct.unpack("<I", read(paddr, 4))[0]) for paddr in SWEPT]


def in_step(values: list[int]) -> bool:
    """Can the pages have held these at one moment?"""
    return sorted(values, reverse=True) == values and values[0] - values[-1] <= 1
