"""Boots a Linux guest under QEMU (TCG), stops it when it is ready, and has QEMU dump it.

Everything goes into one directory for each guest and is kept, so that a guest boots once: ``elf``, ``kdump-zlib``,
``elf-paging`` (x86), ``ram.raw`` (the truth), ``stream`` (a migration stream), ``mtree.txt``, ``registers.txt``,
``console.log``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
#: Where guests are, beside those of other versions of this file, which kept other things of them.
GUESTS = "guests-2"
#: Seconds that fetching a kernel, booting a guest and one QMP command may take.
FETCH_TIMEOUT, BOOT_TIMEOUT, QMP_TIMEOUT = 900, 240, 120


@dataclass(frozen=True)
class Machine:
    """How QEMU runs a guest.

    Attributes:
        qemu: The program.
        package: The Debian package it is in.
        arguments: Machine, CPU and devices.
        machine: ``-machine``.
        console: The kernel's console.
        memory: MiB.
        paging: Does QEMU know its page tables?
        kernel: Whose kernel it boots, where that is not the guest's own name.
        options: More of the kernel's command line.
        balloon: MiB that are left when the guest has given the rest back to the host; 0 for all.
    """

    qemu: str
    package: str
    machine: str
    arguments: tuple[str, ...]
    console: str
    memory: int = 256
    paging: bool = False
    kernel: str = ""
    options: str = ""
    balloon: int = 0


#: A line of ``info mtree -f`` that shows a part of the memory backend; firmware areas are read-only RAM.
_RAM = re.compile(r"  ([0-9a-f]{16})-([0-9a-f]{16}) \(prio \d+, (?:ram|rom)\): ram(?: @([0-9a-f]{16}))?(?: KVM)?$")
_VMCOREINFO = ("-device", "vmcoreinfo")
_PSERIES = "pseries,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off"
MACHINES = {
    "x86_64": Machine(
        "qemu-system-x86_64", "qemu-system-x86", "q35", ("-cpu", "max,la57=off", *_VMCOREINFO), "ttyS0", paging=True
    ),
    # Half of its RAM lies above 4 GiB, as some does in every larger PC.
    "x86_64-high": Machine(
        "qemu-system-x86_64",
        "qemu-system-x86",
        "q35,max-ram-below-4g=128M",
        ("-cpu", "max,la57=off", *_VMCOREINFO),
        "ttyS0",
        kernel="x86_64",
    ),
    # Linux 6.12 with pages of every class that filters know, and a log that has wrapped.
    "x86_64-rich": Machine(
        "qemu-system-x86_64",
        "qemu-system-x86",
        "q35",
        ("-cpu", "max,la57=off", *_VMCOREINFO, "-device", "virtio-balloon-pci"),
        "ttyS0",
        384,
        options="hugepages=6 hugetlb_free_vmemmap=on printk.devkmsg=on",
        balloon=352,
    ),
    "i386": Machine("qemu-system-i386", "qemu-system-x86", "pc", ("-cpu", "max", *_VMCOREINFO), "ttyS0", 128),
    "aarch64": Machine(
        "qemu-system-aarch64", "qemu-system-arm", "virt,gic-version=3", ("-cpu", "max", *_VMCOREINFO), "ttyAMA0"
    ),
    # Short descriptors; "arm-lpae" has long ones.
    "arm": Machine("qemu-system-arm", "qemu-system-arm", "virt,highmem=off", ("-cpu", "cortex-a15"), "ttyAMA0"),
    "arm-lpae": Machine("qemu-system-arm", "qemu-system-arm", "virt", ("-cpu", "cortex-a15"), "ttyAMA0"),
    "s390x": Machine("qemu-system-s390x", "qemu-system-misc", "s390-ccw-virtio", ("-cpu", "max"), "ttyS0"),
    "riscv64": Machine("qemu-system-riscv64", "qemu-system-misc", "virt", ("-cpu", "rv64"), "ttyS0"),
    "ppc64": Machine("qemu-system-ppc64", "qemu-system-ppc", _PSERIES, ("-cpu", "power9"), "hvc0"),
}


@dataclass(frozen=True)
class Guest:
    """A guest that was booted, stopped and dumped.

    Attributes:
        arch: Its key in MACHINES.
        directory: Where its files are.
        vmlinux: Its kernel with debug symbols.
    """

    arch: str
    directory: Path
    vmlinux: Path

    @property
    def elf(self) -> Path:
        """QEMU's ELF dump."""
        return self.directory / "elf"

    @property
    def kdump(self) -> Path:
        """QEMU's kdump-zlib dump, flattened."""
        return self.directory / "kdump-zlib"

    @property
    def elf_paging(self) -> Path:
        """QEMU's ELF dump with paging=true."""
        return self.directory / "elf-paging"

    @property
    def ram(self) -> Path:
        """Its RAM at the moment of the dumps."""
        return self.directory / "ram.raw"

    @property
    def stream(self) -> Path:
        """QEMU's migration stream of the same moment."""
        return self.directory / "stream"

    @property
    def console(self) -> str:
        """What it printed."""
        return (self.directory / "console.log").read_text(errors="replace")

    def text(self, name: str) -> str:
        """A text file of its directory: mtree.txt, registers.txt, mem.txt."""
        return (self.directory / name).read_text()

    def ram_ranges(self) -> list[tuple[int, int, int]]:
        """``(start, end, offset in ram.raw)`` of the RAM that the guest sees, from ``info mtree -f``."""
        ranges = []
        ours = False
        for line in self.text("mtree.txt").splitlines():
            if line.startswith("FlatView"):
                ours = False
            if line.startswith(' AS "memory"'):
                ours = True
            match = _RAM.match(line)
            if ours and match:
                ranges.append((int(match[1], 16), int(match[2], 16) + 1, int(match[3] or "0", 16)))
        return ranges

    @property
    def visible(self) -> int:
        """Bytes of its RAM that the guest sees: all but what firmware hides."""
        size = sum(end - start for start, end, _ in self.ram_ranges())
        assert 0.99 < size / self.ram.stat().st_size <= 1
        return size


class Qmp:
    """A QMP connection, just enough of one."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes] | None = None) -> None:
        deadline = time.monotonic() + 20
        while True:
            self._socket = socket.socket(socket.AF_UNIX)
            try:
                self._socket.connect(str(path))
                break
            except OSError:
                self._socket.close()
                if (process and process.poll() is not None) or time.monotonic() > deadline:
                    raise RuntimeError("QEMU did not start") from None
                time.sleep(0.05)
        self._socket.settimeout(QMP_TIMEOUT)
        self._lines = self._socket.makefile("r")
        self._events: list[dict[str, Any]] = []
        self._lines.readline()
        self.command("qmp_capabilities")

    def command(self, name: str, **arguments: Any) -> Any:
        """Run a command and give what it returns.

        Raises:
            RuntimeError: QEMU refused it.
        """
        message = {"execute": name, "arguments": {k.replace("_", "-"): v for k, v in arguments.items()}}
        self._socket.sendall(json.dumps(message).encode() + b"\n")
        while True:
            answer = json.loads(self._lines.readline())
            if "error" in answer:
                raise RuntimeError(f"{name}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
            self._events.append(answer)

    def stops(self) -> float:
        """Seconds that the guest stood still since this was asked last, from STOP to RESUME by QEMU's own clock."""
        self.command("query-status")
        stood = 0.0
        since: float | None = None
        for event in self._events:
            at = event["timestamp"]["seconds"] + event["timestamp"]["microseconds"] / 1e6
            if event["event"] == "STOP":
                since = at if since is None else since
            elif event["event"] == "RESUME" and since is not None:
                stood, since = stood + at - since, None
        self._events.clear()
        return stood

    def events(self) -> list[str]:
        """The events that have come since this was asked last."""
        self.command("query-status")
        names = [str(event["event"]) for event in self._events]
        self._events.clear()
        return names

    def monitor(self, line: str) -> str:
        """A command of the human monitor, and what it prints."""
        return str(self.command("human-monitor-command", command_line=line)).replace("\r\n", "\n")

    def migrate(self, uri: str, *capabilities: str) -> None:
        """Send or save the guest, and wait until it is done.

        Raises:
            RuntimeError: It failed.
        """
        switched = [{"capability": name, "state": True} for name in capabilities]
        self.command("migrate-set-capabilities", capabilities=switched)
        self.command("migrate-set-parameters", max_bandwidth=1 << 40)
        self.command("migrate", uri=uri)
        deadline = time.monotonic() + QMP_TIMEOUT
        while (found := self.command("query-migrate"))["status"] != "completed":
            if found["status"] in ("failed", "cancelled") or time.monotonic() > deadline:
                raise RuntimeError(f"migrate {uri}: {found}")
            time.sleep(0.05)

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._socket.close()


@contextlib.contextmanager
def running(arguments: list[str], directory: Path) -> Iterator[tuple[Qmp, subprocess.Popen[bytes]]]:
    """QEMU with a QMP connection; it ends with the block, however that is left, and with this process, even killed."""
    sock = directory / "qmp.sock"
    sock.unlink(missing_ok=True)
    command = [
        "setpriv",
        "--pdeathsig=KILL",
        *arguments,
        "-chardev",
        f"socket,id=qmp,path={sock},server=on,wait=off",
        "-mon",
        "chardev=qmp,mode=control",
    ]
    with (directory / "qemu.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        qmp = Qmp(sock, process)
        try:
            yield qmp, process
        finally:
            qmp.close()
    finally:
        process.kill()
        process.wait()
        sock.unlink(missing_ok=True)


@contextlib.contextmanager
def continued(
    guest: Guest, directory: Path, *more: str, backend: str = "memory-backend-ram"
) -> Iterator[tuple[Qmp, subprocess.Popen[bytes]]]:
    """A guest that was booted before, in the moment of its dumps, and paused.

    Args:
        guest: The guest.
        directory: For its monitor.
        more: Arguments for QEMU.
        backend: What its memory is, with options.
    """
    machine = MACHINES[guest.arch]
    arguments = [
        machine.qemu, "-nodefaults", "-display", "none", "-accel", "tcg", "-smp", "2", "-m", f"{machine.memory}M", "-S",
        "-object", f"{backend},id=ram,size={machine.memory}M",
        "-machine", f"{machine.machine},memory-backend=ram", *machine.arguments,
        "-chardev", "null,id=console", "-serial", "chardev:console", "-incoming", f"exec:cat {guest.stream}", *more,
    ]  # fmt: skip
    with running(arguments, directory) as (qmp, process):
        deadline = time.monotonic() + QMP_TIMEOUT
        while qmp.command("query-status")["status"] == "inmigrate":
            if time.monotonic() > deadline:
                raise RuntimeError("the guest does not arrive")
            time.sleep(0.02)
        yield qmp, process


def fetch(arch: str, lab: Path) -> Path:
    """The directory with the kernel of ``arch``, fetched if it is not there.

    Raises:
        RuntimeError: It cannot be fetched.
    """
    directory = lab / "kernels" / arch
    if not (directory / "release").exists():
        directory.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [str(HERE / "fetch-kernel"), arch, str(directory)], capture_output=True, text=True, timeout=FETCH_TIMEOUT
        )
        if done.returncode:
            raise RuntimeError(f"no kernel for {arch}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    return directory


def boot(arch: str, lab: Path) -> Guest:
    """The guest of ``arch``, booted and dumped if it is not there. Of two that ask at once, one waits for the other.

    Raises:
        RuntimeError: It does not boot.
    """
    machine = MACHINES[arch]
    lab.mkdir(parents=True, exist_ok=True)
    with (lab / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kernels = fetch(machine.kernel or arch, lab)
        directory = lab / GUESTS / arch
        if not (directory / "done").exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
            _boot(machine, kernels, directory)
            (directory / "done").touch()
    return Guest(arch, directory, kernels / "vmlinux")


def _boot(machine: Machine, kernels: Path, directory: Path) -> None:
    ram, console = directory / "ram.img", directory / "console.log"
    arguments = [
        machine.qemu, "-nodefaults", "-display", "none", "-no-reboot", "-accel", "tcg,thread=multi",
        "-object", f"memory-backend-file,id=ram,size={machine.memory}M,mem-path={ram},share=on",
        "-machine", f"{machine.machine},memory-backend=ram", *machine.arguments,
        "-m", f"{machine.memory}M", "-smp", "2",
        "-chardev", f"file,id=console,path={console}", "-serial", "chardev:console",
        "-kernel", str(kernels / "kernel"), "-initrd", str(kernels / "initramfs.gz"),
        "-append", f"console={machine.console} panic=-1 loglevel=6 {machine.options}",
    ]  # fmt: skip
    with running(arguments, directory) as (qmp, process):
        deadline = time.monotonic() + BOOT_TIMEOUT
        while b"LAB-READY" not in console.read_bytes():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the guest did not get ready; see {console}")
            time.sleep(0.1)
        if machine.balloon:
            qmp.command("balloon", value=machine.balloon << 20)
            while qmp.command("query-balloon")["actual"] > machine.balloon << 20 and time.monotonic() < deadline:
                time.sleep(0.1)
        time.sleep(2)  # until every CPU is idle, in the kernel
        qmp.command("stop")
        for name, line in (("mtree", "info mtree -f"), ("registers", "info registers -a"), ("mem", "info mem")):
            (directory / f"{name}.txt").write_text(qmp.monitor(line))
        dumps: list[tuple[str, dict[str, Any]]] = [
            ("elf", {"paging": False}),
            ("kdump-zlib", {"paging": False, "format": "kdump-zlib"}),
        ]
        if machine.paging:
            dumps.append(("elf-paging", {"paging": True}))
        for name, options in dumps:
            qmp.command("dump-guest-memory", protocol=f"file:{directory / name}", **options)
            os.chmod(directory / name, 0o600)
        shutil.copyfile(ram, directory / "ram.raw")
        qmp.migrate(f"exec:cat > {directory / 'stream'}")
    ram.unlink()
