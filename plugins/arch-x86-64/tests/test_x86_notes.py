"""The notes of x86 CPUs against QEMU's own."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from pydump.errors import PlanError
from pydump.interfaces.arch import Arch
from pydump.layout.notes import pack_notes, unpack_notes
from pydump.layout.registers import odd_notes
from pydump.model.guest import Cpu, Guest, Utsname
from pydump.model.memory import MemoryMap
from pydump.model.note import Note
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump_arch_x86_64 import I386Arch, X86_64Arch

DATA = Path(__file__).parents[3] / "tests/data/notes"

GUESTS = [
    ("x86_64", X86_64Arch),
    ("mini-x86_64-smp2", X86_64Arch),
    ("nano-x86_64", X86_64Arch),
    ("i386", I386Arch),
    ("bare-i386", I386Arch),
    ("bare-x86_64", I386Arch),
]


def monitor_registers(guest: str, arch: type[Arch]) -> list[dict[str, int]]:
    """What ``info registers`` shows of each CPU, under our names."""
    known = {register.name for register in arch.registers}
    cpus = []
    for text in (DATA / guest / "hmp-registers.txt").read_text().split("CPU#")[1:]:
        shown: dict[str, int] = {}
        for name, value in re.findall(r"\b([RE][A-Z]{2}|R\d+|CR\d) *=([0-9a-f]+)\b", text):
            name = name.lower()
            # A CPU that is not in long mode shows the 32-bit names in a 64-bit dump, and the other way round.
            name = {"rfl": "rflags", "efl": "eflags"}.get(name, name)
            for candidate in (name, "r" + name[1:], "e" + name[1:]):
                if candidate in known:
                    shown[candidate] = int(value, 16)
                    break
        for name, selector, base, limit, flags in re.findall(
            r"^([A-Z]+) *=([0-9a-f]{4}|) +([0-9a-f]+) ([0-9a-f]{8})(?: ([0-9a-f]{8}))?", text, re.M
        ):
            name = name.lower()
            shown[f"{name}_base"] = int(base, 16)
            shown[f"{name}_limit"] = int(limit, 16)
            if selector:
                shown[name] = int(selector, 16)
                shown[f"{name}_flags"] = int(flags, 16)
        # The monitor works out the arithmetic flags; QEMU's notes hold eflags without them.
        shown.pop("rflags", None)
        shown.pop("eflags", None)
        cpus.append(shown)
    return cpus


def merged(held: Mapping[str, int], shown: Mapping[str, int]) -> dict[str, int]:
    """What the monitor shows over what it does not; of a segment's flags it shows only these bits."""
    flags = {name: held[name] & ~0x00F0FF00 | shown[name] for name in shown if name.endswith("_flags")}
    return {**held, **shown, **flags}


@pytest.mark.parametrize(("guest", "arch"), GUESTS)
def test_notes_equal_qemus(guest: str, arch: type[Arch]) -> None:
    golden = (DATA / guest / "notes.bin").read_bytes()
    notes = unpack_notes(golden, "little")
    shown = monitor_registers(guest, arch)
    held = arch.cpus(notes, "little")
    assert len(held) == len(shown) == 2
    cpus = [Cpu(cpu.index, merged(cpu.registers, seen)) for cpu, seen in zip(held, shown, strict=True)]
    assert pack_notes(arch.cpu_notes(cpus, "little"), "little") == golden
    assert arch.cpu_notes(cpus, "little", compat="qemu") == arch.cpu_notes(cpus, "little")


@pytest.mark.parametrize(("guest", "arch"), GUESTS)
def test_what_the_monitor_does_not_show(guest: str, arch: type[Arch]) -> None:
    shown = set(monitor_registers(guest, arch)[0])
    rest = {register.name for register in arch.registers} - shown
    flags, orig = ("rflags", "orig_rax") if arch is X86_64Arch else ("eflags", "orig_eax")
    expected = {"pr_pid", flags, orig, "cr1", "kernel_gs_base", "gdt", "gdt_flags", "idt", "idt_flags"}
    if arch is I386Arch:
        expected |= {f"r{i}" for i in range(8, 16)}
    assert rest == expected


def named(names: str, size: int) -> bytes:
    """Each name as its register's value, in a little-endian field of ``size`` bytes."""
    return b"".join(name.encode().ljust(size, b"\0") for name in names.split())


def own_names(arch: type[Arch]) -> Cpu:
    """A CPU each of whose registers holds its own name, as far as it fits."""
    return Cpu(
        0,
        {
            r.name: int.from_bytes(r.name.encode()[: r.bits // 8].ljust(r.bits // 8, b"\0"), "little")
            for r in arch.registers
            if r.name != "pr_pid"
        },
    )


def segment(name: str) -> bytes:
    """Its selector, limit, flags and padding."""
    return name.encode()[:2].ljust(4, b"\0") + f"{name}_limit".encode()[:4] + f"{name}_flags".encode()[:4] + bytes(4)


def test_every_x86_64_register_lies_where_struct_user_regs_has_it() -> None:
    prstatus, qemu = X86_64Arch.cpu_notes([own_names(X86_64Arch)], "little")
    assert prstatus.desc == (
        bytes(32)
        + b"\1\0\0\0"
        + bytes(76)
        + named("r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs rflags rsp ss", 8)
        + named("fs_base gs_base ds es fs gs", 8)
        + bytes(8)
    )
    segments = b"".join(
        segment(name) + f"{name}_base".encode().ljust(8, b"\0") for name in "cs ds es fs gs ss ldt tr gdt idt".split()
    )
    assert qemu.desc == (
        struct.pack("<II", 1, 440)
        + named("rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags", 8)
        + segments
        + named("cr0 cr1 cr2 cr3 cr4", 8)
        + b"kernel_g"
    )


def test_every_i386_register_lies_where_struct_user_regs_has_it() -> None:
    prstatus, _ = I386Arch.cpu_notes([own_names(I386Arch)], "little")
    assert prstatus.desc == (
        bytes(24)
        + b"\1\0\0\0"
        + bytes(44)
        + named("ebx ecx edx esi edi ebp eax ds es fs gs", 4)
        + b"orig"
        + named("eip cs", 4)
        + b"efla"
        + named("esp ss", 4)
        + bytes(4)
    )


def test_all_prstatus_notes_come_before_all_qemu_notes() -> None:
    notes = X86_64Arch.cpu_notes([Cpu(0, {}), Cpu(1, {}), Cpu(2, {"rax": 7})], "little")
    assert [note.name for note in notes] == ["CORE"] * 3 + ["QEMU"] * 3
    assert X86_64Arch.cpus(notes, "little")[2].registers["rax"] == 7
    assert X86_64Arch.count_cpus(notes) == 3


def test_older_qemu_note_has_no_kernel_gs_base() -> None:
    notes = unpack_notes((DATA / "x86_64/notes.bin").read_bytes(), "little")
    older = tuple(Note(n.name, n.type, n.desc[:432]) if n.name == "QEMU" else n for n in notes)
    assert "kernel_gs_base" not in X86_64Arch.cpus(older, "little")[0].registers
    cut = [notes[0], Note("QEMU", 0, notes[2].desc[:431])]
    assert X86_64Arch.cpus(cut, "little") == X86_64Arch.cpus(notes[:1], "little")
    assert list(odd_notes(X86_64Arch.note_kinds, cut)) == [
        "1 of 1 QEMU notes cannot be read (the first has 431 bytes, not 440): their registers are not shown"
    ]


def test_notes_without_their_cpu_are_passed_over() -> None:
    notes = unpack_notes((DATA / "x86_64/notes.bin").read_bytes(), "little")
    assert X86_64Arch.cpus(notes[1:], "little") == (replace(X86_64Arch.cpus(notes[1:2], "little")[0], index=0),)
    assert list(odd_notes(X86_64Arch.note_kinds, notes[1:])) == [
        "there are 2 QEMU notes and 1 CPUs: their registers are not shown"
    ]


def test_unknown_register_lists_the_right_ones() -> None:
    with pytest.raises(PlanError, match="CPU 1: unknown register 'eax'; the registers are pr_pid r15 .* rax") as caught:
        X86_64Arch.cpu_notes([Cpu(0, {}), Cpu(1, {"eax": 1})], "little")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("value", [1 << 16, -1, "16"])
def test_value_that_does_not_fit(value: int) -> None:
    with pytest.raises(PlanError, match="CPU 0: cs has 16 bits"):
        X86_64Arch.cpu_notes([Cpu(0, {"cs": value})], "little")


def guest_of(name: str, arch: type[Arch]) -> Guest:
    text = DATA.parent / f"vmcoreinfo/{name}.txt"
    return arch.complete(
        Guest(
            MemoryMap.of([(0, 256 << 20), (0xFFFC0000, 0x40000)]),
            byte_order="little",
            notes=unpack_notes((DATA / name / "notes.bin").read_bytes(), "little"),
            vmcoreinfo=Vmcoreinfo(text.read_bytes()) if text.exists() else None,
        )
    )


def test_phys_base_is_signed_decimal() -> None:
    assert guest_of("x86_64", X86_64Arch).phys_base == -375390208
    assert guest_of("nano-x86_64", X86_64Arch).phys_base == 0


@pytest.mark.parametrize(("name", "arch"), GUESTS)
def test_quirks_state_what_qemus_kdump_header_does(name: str, arch: type[Arch]) -> None:
    header = (DATA / name / "kdump-header.bin").read_bytes()
    guest = arch.quirks.stated(guest_of(name, arch))
    assert guest.phys_base == struct.unpack("<q", header[464:472])[0]
    assert guest.page_size == struct.unpack("<I", header[428:432])[0]
    # bare-x86_64 ran in qemu-system-x86_64, whose name for itself does not follow from the guest.
    assert header[12:402].replace(b"\0", b"") == (b"x86_64" if "x86_64" in name else b"i686")
    assert guest.utsname == Utsname(machine="x86_64" if arch is X86_64Arch else "i686")


def test_settled_names() -> None:
    uts = guest_of("x86_64", X86_64Arch).utsname
    assert (uts.sysname, uts.machine) == ("Linux", "x86_64")
    assert uts.release == "6.1.0-50-amd64"
    assert guest_of("i386", I386Arch).utsname.machine == "i686"
    assert guest_of("i386", I386Arch).n_cpus == 2


@pytest.mark.parametrize(("name", "arch"), GUESTS)
def test_owns(name: str, arch: type[Arch]) -> None:
    notes = unpack_notes((DATA / name / "notes.bin").read_bytes(), "little")
    guest = Guest(MemoryMap(), byte_order="little", notes=notes)
    assert [cls for cls in (X86_64Arch, I386Arch) if cls.owns(guest)] == [arch]
    assert not X86_64Arch.owns(Guest(MemoryMap(), byte_order="big", notes=notes))
    assert not X86_64Arch.owns(Guest(MemoryMap(), byte_order="little"))
