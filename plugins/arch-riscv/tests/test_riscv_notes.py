"""The note of a RISC-V CPU against QEMU's own."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from pydump.layout.notes import pack_notes, unpack_notes
from pydump.model.guest import Cpu, Guest, Utsname
from pydump.model.memory import MemoryMap
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump_arch_riscv import Riscv32Arch, Riscv64Arch

DATA = Path(__file__).parents[3] / "tests/data/notes"

GUESTS = ["riscv64", "bare-riscv64"]


def monitor_registers(guest: str) -> list[dict[str, int]]:
    """What ``info registers`` shows of each CPU, under our names."""
    cpus = []
    for text in (DATA / guest / "hmp-registers.txt").read_text().split("CPU#")[1:]:
        shown = {name: int(value, 16) for name, value in re.findall(r"\bx\d+/(\w+) +([0-9a-f]{16})", text)}
        del shown["zero"]
        shown["pc"] = int(re.findall(r"^ pc +([0-9a-f]{16})", text, re.M)[0], 16)
        cpus.append(shown)
    return cpus


@pytest.mark.parametrize("guest", GUESTS)
def test_notes_equal_qemus(guest: str) -> None:
    golden = (DATA / guest / "notes.bin").read_bytes()
    shown = monitor_registers(guest)
    assert [set(cpu) for cpu in shown] == [{r.name for r in Riscv64Arch.registers} - {"pr_pid"}] * 2
    cpus = [Cpu(index, registers) for index, registers in enumerate(shown)]
    assert pack_notes(Riscv64Arch.cpu_notes(cpus, "little"), "little") == golden
    assert list(Riscv64Arch.cpus(unpack_notes(golden, "little"), "little")) == cpus


@pytest.mark.parametrize(
    ("arch", "size", "before", "after", "total"), [(Riscv64Arch, 8, 32, 76, 376), (Riscv32Arch, 4, 24, 44, 204)]
)
def test_every_register_lies_where_struct_user_regs_has_it(
    arch: type[Riscv64Arch], size: int, before: int, after: int, total: int
) -> None:
    names = "pc ra sp gp tp t0 t1 t2 s0 s1 a0 a1 a2 a3 a4 a5 a6 a7 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 t3 t4 t5 t6".split()
    values = [name.encode().ljust(size, b"\0") for name in names]
    cpu = Cpu(4, {name: int.from_bytes(value, "little") for name, value in zip(names, values, strict=True)})
    (note,) = arch.cpu_notes([cpu], "little")
    assert note.desc == (bytes(before) + b"\5\0\0\0" + bytes(after) + b"".join(values)).ljust(total, b"\0")
    assert (note.name, note.type) == ("CORE", 1)


@pytest.mark.parametrize("name", GUESTS)
def test_quirks_state_what_qemus_kdump_header_does(name: str) -> None:
    header = (DATA / name / "kdump-header.bin").read_bytes()
    notes = unpack_notes((DATA / name / "notes.bin").read_bytes(), "little")
    memory = MemoryMap.of([(0x1000, 0xF000), (0x80000000, 256 << 20)])
    vmcoreinfo = Vmcoreinfo(b"OSRELEASE=6.12.107\nPAGESIZE=4096\nNUMBER(phys_ram_base)=0x80000000\n")
    settled = Riscv64Arch.complete(Guest(memory, byte_order="little", notes=notes, vmcoreinfo=vmcoreinfo))
    assert (settled.phys_base, settled.utsname.machine) == (0x80000000, "riscv64")
    guest = Riscv64Arch.quirks.stated(settled)
    assert guest.phys_base == struct.unpack("<q", header[464:472])[0]
    assert guest.page_size == struct.unpack("<I", header[428:432])[0]
    assert guest.utsname == Utsname(machine=header[12:402].replace(b"\0", b"").decode())
    assert guest.notes == notes


def test_owns() -> None:
    notes = unpack_notes((DATA / "riscv64/notes.bin").read_bytes(), "little")
    guest = Guest(MemoryMap(), byte_order="little", notes=notes)
    assert Riscv64Arch.owns(guest)
    assert not Riscv32Arch.owns(guest)
