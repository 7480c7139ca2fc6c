"""Guests that run, to be captured: QEMU with a monitor for the test and one for pydump."""

from __future__ import annotations

import contextlib
import fcntl
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
from lab.boot import FETCH_TIMEOUT, MACHINES, Qmp, running

#: sweep.S, assembled and linked as it says there.
SWEEP = bytes.fromhex(
    "fa2e660f011658ff0f20c380cb010f22c366ea19ffffff0800bb100000008edb"
    "31c040bf00001000b930000000890781c700001000e2f6ebe98db400008d7400"
    "0000000000000000ffff0000009bcf00ffff00000093cf00170040ffffff"
).ljust(0xF0, b"\0") + bytes.fromhex("e90dff").ljust(16, b"\0")
#: FIRST, STEP and PAGES of sweep.S.
SWEPT = range(0x100000, 0x100000 + 48 * 0x100000, 0x100000)
#: What guests of other architectures run: each adds to a register and writes it to :data:`COUNTERS`, for ever.
LOOPS = {
    # add x0, x0, #1; mov x1, #0x41000000; str x0, [x1]; b
    "aarch64": bytes.fromhex("000400910120a8d2200000f9fdffff17"),
    # add r0, r0, #1; mov r1, #0x41000000; str r0, [r1]; b
    "arm": bytes.fromhex("010080e24114a0e3000081e5fbffffea"),
    # addi a0, a0, 1; auipc a1, 0x1000; sd a0, -4(a1); j
    "riscv64": bytes.fromhex("130515009705000123bea5fe6ff05fff"),
    # addi 3, 3, 1; std 3, 0x2000(0); b; where the processor begins: 0x100
    "ppc64": bytes(0x100) + bytes.fromhex("38630001f86020004bfffff8"),
    # aghi %r2, 1; stg %r2, 0x2000; j; at 0x10000, as the PSW at 0 says
    "s390x": bytes.fromhex("0008000080010000").ljust(0x10000, b"\0") + bytes.fromhex("a72b0001e32000000224a7f4fffb"),
}
#: What guests run whose registers do not change: each puts 0x123 into one, and then waits in one place for ever.
IDLE = {
    "aarch64": bytes.fromhex("602480d200000014"),  # mov x0, #0x123; b .
    "arm": bytes.fromhex("230100e3feffffea"),  # movw r0, #0x123; b .
    "riscv64": bytes.fromhex("130530126f000000"),  # addi a0, zero, 0x123; j .
    "ppc64": bytes(0x100) + bytes.fromhex("3860012348000000"),  # li 3, 0x123; b .
    "s390x": bytes.fromhex("0008000080010000").ljust(0x10000, b"\0") + bytes.fromhex("a7290123a7f40000"),  # lghi; j .
    # At the reset vector: mov ax, 0x123; jmp .
    "x86_64": bytes(0xFFF0) + bytes.fromhex("b82301ebfe").ljust(16, b"\0"),
    "i386": bytes(0xFFF0) + bytes.fromhex("b82301ebfe").ljust(16, b"\0"),
}
#: What a PC runs that panics each time it is let run. At the reset vector: mov dx, 0x505; mov al, 1; out dx, al; jmp
#: to the out. Source: docs/specs/pvpanic.rst of QEMU.
PANICKING = bytes(0xFFF0) + bytes.fromhex("ba0505b001eeebfd").ljust(16, b"\0")
#: How QEMU is to run them.
STARTS = {
    "aarch64": ("-device", "loader,file={},addr=0x40100000,cpu-num=0,force-raw=on"),
    "arm": ("-device", "loader,file={},addr=0x40100000,cpu-num=0,force-raw=on"),
    "riscv64": ("-bios", "{}"),
    "ppc64": ("-bios", "{}"),
    "s390x": ("-kernel", "{}"),
    "x86_64": ("-bios", "{}"),
    "i386": ("-bios", "{}"),
}
COUNTERS = {
    "aarch64": 0x41000000,
    "arm": 0x41000000,
    "riscv64": 0x81000000,
    "ppc64": 0x2000,
    "s390x": 0x2000,
    "x86_64": SWEPT[0],
    "i386": SWEPT[0],
}
#: A capture with these takes seconds.
SLOW = ("--compression", "zstd", "--zstd-level", "19", "--workers", "1", "--no-sync")


@dataclass(frozen=True)
class Live:
    """A guest under QEMU.

    Attributes:
        qmp: The test's monitor.
        socket: The monitor for pydump.
        process: QEMU.
        arch: Its key in MACHINES.
    """

    qmp: Qmp
    socket: Path
    process: subprocess.Popen[bytes]
    arch: str = "x86_64"

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
        return self.qmp.monitor(f"xp /2wx {COUNTERS[self.arch]:#x}")

    @property
    def state(self) -> str:
        """Its run state, by QEMU."""
        return str(self.qmp.command("query-status")["status"])

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


#: QEMU of the machine's own Debian, and of newer suites; ``PYDUMP_QEMU="trixie sid"`` adds QEMU 11.
SUITES = ("own", *os.environ.get("PYDUMP_QEMU", "trixie").split())


def qemu_of(suite: str, lab: Path) -> tuple[str, ...]:
    """What stands before a program of QEMU's to run that of a Debian suite, which is fetched if it is not there."""
    if suite == "own":
        return ()
    directory = lab / "qemu" / suite
    directory.parent.mkdir(parents=True, exist_ok=True)
    why = "run tests/integration/lab/fetch-qemu"
    with (directory.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "run").exists():
            fetch = [Path(__file__).parent / "fetch-qemu", suite, directory]
            done = subprocess.run(fetch, capture_output=True, text=True, timeout=FETCH_TIMEOUT, check=False)
            why = (done.stderr or done.stdout).strip()[-200:]
    require((directory / "run").exists(), f"QEMU of Debian {suite}", f"{why}; it needs apt and a network")
    return (str(directory / "run"),)


@contextlib.contextmanager
def live_guest(
    directory: Path,
    arch: str = "x86_64",
    *,
    memory: int = 64,
    shared: bool = False,
    arguments: tuple[str, ...] = (),
    qemu: tuple[str, ...] = (),
    program: bytes | None = None,
) -> Iterator[Live]:
    """A guest of ``memory`` MiB that runs sweep.S, or one of LOOPS.

    Args:
        directory: For its sockets.
        arch: Its key in MACHINES.
        memory: MiB.
        shared: Whether its RAM is a memfd.
        arguments: More arguments for QEMU.
        qemu: As :func:`qemu_of` gives it.
        program: What it runs instead of these.
    """
    machine = MACHINES[arch]
    require(qemu or shutil.which(machine.qemu), machine.qemu, f"apt install {machine.package}")
    sock = directory / "pydump.sock"
    sock.unlink(missing_ok=True)
    command = [
        *qemu, machine.qemu, "-nodefaults", "-display", "none", "-no-reboot", "-accel", "tcg", "-m", f"{memory}M",
        "-qmp", f"unix:{sock},server=on,wait=off",
    ]  # fmt: skip
    board = machine.machine
    if shared:
        command += ["-object", f"memory-backend-memfd,id=ram,size={memory}M,share=on"]
        board += ",memory-backend=ram"
    file = directory / "program"
    file.write_bytes(program or LOOPS.get(arch) or SWEEP.rjust(0x10000, b"\0"))
    command += [word.format(file) for word in STARTS[arch]]
    if arch != "x86_64":
        command += [*machine.arguments, "-smp", "2"]
    with running([*command, "-machine", board, *arguments], directory) as (qmp, process):
        assert wait_for(sock.exists)
        yield Live(qmp, sock, process, arch)


def wait_for(condition: Callable[[], object], seconds: float = 30) -> bool:
    """Until it holds, but not for long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@contextlib.contextmanager
def heavy_guest(
    directory: Path, *, shared: bool = False, arguments: tuple[str, ...] = (), qemu: tuple[str, ...] = ()
) -> Iterator[Live]:
    """A guest whose memory takes seconds to compress with :data:`SLOW`."""
    contents = directory / "contents"
    contents.write_bytes(random.Random(1).randbytes(48 << 20))
    load = ("-device", f"loader,file={contents},addr=0x4000000,force-raw=on")
    with live_guest(directory, memory=128, shared=shared, arguments=(*load, *arguments), qemu=qemu) as guest:
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
