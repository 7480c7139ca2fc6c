"""The notes of aarch64 and arm CPUs against QEMU's own."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from pydump.errors import PlanError
from pydump.interfaces.arch import Arch
from pydump.layout.notes import pack_notes, unpack_notes
from pydump.layout.registers import odd_notes
from pydump.model.guest import ByteOrder, Cpu, Guest, Utsname
from pydump.model.memory import MemoryMap
from pydump.model.note import Note
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump_arch_aarch64 import Aarch64Arch, ArmArch

DATA = Path(__file__).parents[3] / "tests/data/notes"

GUESTS = [("aarch64", Aarch64Arch), ("bare-aarch64", Aarch64Arch), ("bare-arm", ArmArch)]


def monitor_registers(guest: str) -> list[dict[str, int]]:
    """What ``info registers`` shows of each CPU, under our names."""
    cpus = []
    for text in (DATA / guest / "hmp-registers.txt").read_text().split("CPU#")[1:]:
        shown = {}
        for name, value in re.findall(r"\b(PC|SP|PSTATE|PSR|FPCR|FPSR|FPSCR|FFR|[XPRd]\d\d)(?:=|: )([0-9a-f]+)", text):
            name = re.sub(r"(\D)0(\d)$", r"\1\2", name).lower()
            name = {"psr": "cpsr", "r13": "sp", "r14": "lr", "r15": "pc"}.get(name, name)
            shown[name] = int(value, 16)
        for number, high, low in re.findall(r"Z(\d\d)\[3-2\]=(\S+)\s+\[1-0\]=(\S+)", text):
            # Each ":" divides two 64-bit words; the monitor shows the most significant one first.
            value = int((high + low).replace(":", ""), 16)
            shown[f"z{int(number)}"] = value
            shown[f"v{int(number)}"] = value % (1 << 128)
        cpus.append(shown)
    return cpus


@pytest.mark.parametrize(("guest", "arch"), GUESTS)
def test_notes_equal_qemus(guest: str, arch: type[Arch]) -> None:
    golden = (DATA / guest / "notes.bin").read_bytes()
    held, shown = arch.cpus(unpack_notes(golden, "little"), "little"), monitor_registers(guest)
    assert len(held) == len(shown) == 2
    rest = {register for cpu in held for register in cpu.registers} - set(shown[0])
    assert (
        rest
        == {
            "aarch64": {"sve_vl", "sve_max_vl"},
            "bare-aarch64": {"fpsr", "fpcr", *(f"v{i}" for i in range(32))},  # "FPU disabled"
            "bare-arm": {"pr_fpvalid"},
        }[guest]
    )
    cpus = [Cpu(cpu.index, {**cpu.registers, **seen}) for cpu, seen in zip(held, shown, strict=True)]
    assert pack_notes(arch.cpu_notes(cpus, "little"), "little") == golden


def named(names: str, size: int, byte_order: ByteOrder = "little") -> tuple[dict[str, int], bytes]:
    values = [name.encode()[:size].ljust(size, b"\0") for name in names.split()]
    registers = {n: int.from_bytes(v, byte_order) for n, v in zip(names.split(), values, strict=True)}
    return registers, b"".join(values)


@pytest.mark.parametrize("byte_order", ["little", "big"])
def test_every_aarch64_register_lies_where_the_kernels_structs_have_it(byte_order: ByteOrder) -> None:
    def many(prefix: str, n: int) -> str:
        return " ".join(f"{prefix}{i}" for i in range(n))

    general, general_bytes = named(many("x", 31) + " sp pc pstate", 8, byte_order)
    vector, vector_bytes = named(many("v", 32), 16, byte_order)
    status, status_bytes = named("fpsr fpcr", 4, byte_order)
    # The SVE registers are little-endian in either byte order.
    z, z_bytes = named(many("z", 32), 32)
    p, p_bytes = named(many("p", 16) + " ffr", 4)
    cpu = Cpu(0, {**general, **vector, **status, **z, **p, "sve_vl": 32, "sve_max_vl": 64})
    one = (1).to_bytes(4, byte_order)
    order = "<" if byte_order == "little" else ">"
    assert Aarch64Arch.cpu_notes([cpu], byte_order) == (
        Note("CORE", 1, bytes(32) + one + bytes(76) + general_bytes + one + bytes(4)),
        Note("CORE", 2, vector_bytes + status_bytes + bytes(8)),
        Note(
            "LINUX",
            0x405,
            # 16 + 32 * 32 + 17 * 4 = 1108, fpsr at 1120; 2224 is QEMU's size for 64-byte vectors.
            struct.pack(order + "IIHHHH", 1136, 2224, 32, 64, 1, 0)
            + z_bytes
            + p_bytes
            + bytes(12)
            + status_bytes
            + bytes(8),
        ),
    )
    assert Aarch64Arch.cpus(Aarch64Arch.cpu_notes([cpu], byte_order), byte_order) == (cpu,)


def test_every_arm_register_lies_where_the_kernels_structs_have_it() -> None:
    general, general_bytes = named("r0 r1 r2 r3 r4 r5 r6 r7 r8 r9 r10 r11 r12 sp lr pc cpsr", 4)
    vfp, vfp_bytes = named(" ".join(f"d{i}" for i in range(32)), 8)
    fpscr, fpscr_bytes = named("fpscr", 4)
    assert ArmArch.cpu_notes([Cpu(0, {**general, **vfp, **fpscr})], "little") == (
        Note("CORE", 1, bytes(24) + b"\1\0\0\0" + bytes(44) + general_bytes + bytes(4) + b"\1\0\0\0"),
        Note("LINUX", 0x400, vfp_bytes + fpscr_bytes),
    )


def test_arm_without_floating_point_has_no_vfp_note() -> None:
    notes = ArmArch.cpu_notes([Cpu(0, {"pr_fpvalid": 0}), Cpu(1, {})], "little")
    assert [note.type for note in notes] == [1, 1, 0x400]
    assert [cpu.registers.get("d0") for cpu in ArmArch.cpus(notes, "little")] == [None, 0]
    with pytest.raises(PlanError, match="CPU 0: there is no VFP note to hold d3; give pr_fpvalid as well"):
        ArmArch.cpu_notes([Cpu(0, {"pr_fpvalid": 0, "d3": 1})], "little")


def test_sve_note_is_there_when_a_vector_length_is_given() -> None:
    assert len(Aarch64Arch.cpu_notes([Cpu(0, {"x0": 1})], "little")) == 2
    with pytest.raises(PlanError, match="no SVE note to hold z0; give sve_vl as well"):
        Aarch64Arch.cpu_notes([Cpu(0, {"z0": 1})], "little")
    with pytest.raises(PlanError, match="p1 has 16 bits with sve_vl 16"):
        Aarch64Arch.cpu_notes([Cpu(0, {"sve_vl": 16, "p1": 1 << 16})], "little")
    for vl, most in ((24, 0), (64, 32), (512, 0)):
        with pytest.raises(PlanError, match="are not vector lengths"):
            Aarch64Arch.cpu_notes([Cpu(0, {"sve_vl": vl, "sve_max_vl": most})], "little")


def test_a_broken_sve_note_keeps_the_other_registers() -> None:
    notes = unpack_notes((DATA / "aarch64/notes.bin").read_bytes(), "little")
    sve = notes[2]
    for desc in (sve.desc[:-8], sve.desc[:8], sve.desc[:8] + b"\x41\0" + sve.desc[10:]):
        broken = [notes[0], Note(sve.name, sve.type, desc)]
        (cpu,) = Aarch64Arch.cpus(broken, "little")
        assert cpu == Aarch64Arch.cpus([notes[0]], "little")[0]
        assert list(odd_notes(Aarch64Arch.note_kinds, broken)) == [
            f"1 of 1 SVE notes cannot be read (the first has {len(desc)} bytes): their registers are not shown"
        ]


@pytest.mark.parametrize(("name", "arch"), GUESTS)
def test_quirks_state_what_qemus_kdump_header_does(name: str, arch: type[Arch]) -> None:
    header = (DATA / name / "kdump-header.bin").read_bytes()
    notes = unpack_notes((DATA / name / "notes.bin").read_bytes(), "little")
    text = DATA.parent / f"vmcoreinfo/{name}.txt"
    vmcoreinfo = Vmcoreinfo(text.read_bytes()) if text.exists() else None
    memory = MemoryMap.of([(0x40000000, 256 << 20)])
    settled = arch.complete(Guest(memory, byte_order="little", notes=notes, vmcoreinfo=vmcoreinfo))
    assert settled.page_size == 4096
    assert settled.phys_base == 0x40000000
    guest = arch.quirks.stated(settled)
    order = "<q" if arch is Aarch64Arch else "<I"
    assert guest.phys_base == struct.unpack_from(order, header, 464)[0]
    assert guest.page_size == struct.unpack_from("<I", header, 428 if arch is Aarch64Arch else 416)[0]
    assert guest.utsname == Utsname(machine=header[12:402].replace(b"\0", b"").decode())
    assert guest.notes == notes


def test_big_endian_guests() -> None:
    cpu = Cpu(0, {"pc": 0x1122334455667788})
    notes = Aarch64Arch.cpu_notes([cpu], "big")
    stated = Guest(MemoryMap.of([(0, 1 << 20)]), byte_order="big", notes=notes)
    assert Aarch64Arch.owns(stated)
    assert not ArmArch.owns(stated)
    assert Aarch64Arch.complete(stated).utsname.machine == "aarch64_be"
    assert ArmArch.complete(Guest(MemoryMap(), byte_order="big")).utsname.machine == "armv7b"
