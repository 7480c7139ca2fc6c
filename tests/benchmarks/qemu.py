"""QEMU's own dump of the same memory: a machine that never runs, with the guest's RAM in a file behind it."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from measure import TIMEOUT, CommandError

import pydump

QEMU = "qemu-system-x86_64"
#: Above this RAM is no longer contiguous from address 0 on.
LOW_RAM = 2 << 30


def usable(elf: str) -> str | None:
    """Why QEMU cannot take part, or None."""
    if not shutil.which(QEMU):
        return f"{QEMU} is not installed"
    with pydump.open(elf) as vmcore:
        guest = vmcore.guest
        if guest.arch != "x86_64" or ram_size(elf) > LOW_RAM:
            return "it takes an x86_64 guest of at most 2 GiB"
    return None


def ram_size(elf: str) -> int:
    """Bytes of RAM from address 0 on; the firmware just below 4 GiB is none."""
    with pydump.open(elf) as vmcore:
        end = max(block.end for block in vmcore.stated.memory if block.end <= LOW_RAM)
    return -(-end // (1 << 20)) * (1 << 20)


def write_ram(elf: str, path: Path) -> None:
    """The guest's RAM as a file that QEMU can have as its memory."""
    with pydump.open(elf) as vmcore, path.open("wb") as out:
        out.truncate(ram_size(elf))
        for block in vmcore.stated.memory:
            for at in range(block.paddr, min(block.end, LOW_RAM), 64 << 20):
                out.seek(at)
                out.write(vmcore.read(at, min(64 << 20, block.end - at)))


def seconds(ram: Path, output: Path) -> float:
    """Seconds that dump-guest-memory takes for kdump-zlib; starting QEMU is not counted.

    Raises:
        CommandError: It failed.
    """
    size = ram.stat().st_size
    command = [
        *(QEMU, "-S", "-nodefaults", "-display", "none", "-accel", "tcg", "-qmp", "stdio"),
        *("-m", f"{size >> 20}M", "-machine", "q35,memory-backend=ram"),
        *("-object", f"memory-backend-file,id=ram,size={size},mem-path={ram},share=off,prealloc=on"),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as qemu:
        try:
            assert qemu.stdout
            qemu.stdout.readline()  # the greeting
            _ask(qemu, "qmp_capabilities")
            began = time.perf_counter()
            _ask(qemu, "dump-guest-memory", protocol=f"file:{output}", paging=False, format="kdump-zlib")
            took = time.perf_counter() - began
            if took > TIMEOUT:
                raise CommandError(f"QEMU took {took:.0f} s")
            return took
        finally:
            qemu.kill()


def _ask(qemu: subprocess.Popen[str], command: str, **arguments: Any) -> None:
    assert qemu.stdin and qemu.stdout
    request: dict[str, Any] = {"execute": command}
    if arguments:
        request["arguments"] = arguments
    qemu.stdin.write(json.dumps(request) + "\n")
    qemu.stdin.flush()
    for line in qemu.stdout:
        answer = json.loads(line)
        if "error" in answer:
            raise CommandError(f"QEMU: {answer['error']['desc']}")
        if "return" in answer:
            return
    raise CommandError("QEMU ended")
