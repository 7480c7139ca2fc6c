"""binutils, elfutils and gdb on our ELF files of booted guests."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from judges import elfutils_notes, gdb, readelf
from lab.boot import Guest

Pydump = Callable[..., subprocess.CompletedProcess[str]]
#: What readelf calls the machine and the byte order.
MACHINES = {
    "x86_64": ("Advanced Micro Devices X86-64", "little"),
    "i386": ("Intel 80386", "little"),
    "aarch64": ("AArch64", "little"),
    "s390x": ("IBM S/390", "big"),
    "riscv64": ("RISC-V", "little"),
    "ppc64": ("PowerPC64", "little"),
}
#: The program counter: as QEMU's monitor shows it, and as elfutils reads it from a note.
PROGRAM_COUNTERS = {
    "x86_64": (r"^RIP=(\w+)", r"\brip: +0x(\w+)"),
    "i386": (r"^EIP=(\w+)", r"\beip: +0x(\w+)"),
    "aarch64": (r"^ PC=(\w+)", r"\bpc: +0x(\w+)"),
    "s390x": (r"^PSW=mask \w+ addr (\w+)", r"\bpswa: +0x(\w+)"),
    "riscv64": (r"^ pc +(\w+)", r"\bpc: +0x(\w+)"),
    "ppc64": (r"^NIP (\w+)", r"\bnip: +0x(\w+)"),
}


@pytest.fixture
def elf(arch: str, guest: Callable[[str], Guest], pydump: Pydump, tmp_path: Path) -> Path:
    """Our ELF dump of the guest."""
    out = tmp_path / "elf"
    pydump("dump", guest(arch).elf, out, "--format", "elf")
    return out


@pytest.mark.parametrize("arch", MACHINES)
def test_binutils_has_nothing_to_say_against_it(arch: str, elf: Path) -> None:
    said = readelf(elf)
    machine, order = MACHINES[arch]
    assert re.search(rf"^ +Machine: +{re.escape(machine)}$", said, re.M)
    assert f"{order} endian" in said
    assert re.search(r"^ +Size of this header: +64 \(bytes\)$", said, re.M)
    assert said.count("NT_PRSTATUS") == 2
    assert len(re.findall(r"^ +VMCOREINFO ", said, re.M)) == 1


@pytest.mark.parametrize("arch", MACHINES)
def test_elfutils_finds_each_cpu_where_it_stood(arch: str, elf: Path, guest: Callable[[str], Guest]) -> None:
    said = elfutils_notes(elf)
    assert re.findall(r"^ +pid: (\d+),", said, re.M) == ["1", "2"]
    shown, read = PROGRAM_COUNTERS[arch]
    truth = [int(value, 16) for value in re.findall(shown, guest(arch).text("registers.txt"), re.M)]
    assert len(truth) == 2
    assert [int(value, 16) for value in re.findall(read, said)] == truth


@pytest.mark.parametrize("arch", ["x86_64"])
def test_gdb_reads_registers_and_kernel_memory(
    arch: str, guest: Callable[[str], Guest], pydump: Pydump, tmp_path: Path
) -> None:
    g = guest(arch)
    pydump("dump", g.elf, tmp_path / "elf", "--format", "elf", "--paging")
    banner = re.search(r"LAB sym (\w+) D linux_banner", g.console)
    assert banner
    said = gdb(tmp_path / "elf", "thread apply all -q p/x $rip", f"x/s 0x{banner[1]}")
    truth = re.findall(r"^RIP=(\w+)", g.text("registers.txt"), re.M)
    assert re.findall(r"^\$\d = 0x(\w+)$", said, re.M) == [f"{int(value, 16):x}" for value in truth]
    release = (g.vmlinux.parent / "release").read_text().strip()
    assert f'0x{banner[1]}:\t"Linux version {release} ' in said
