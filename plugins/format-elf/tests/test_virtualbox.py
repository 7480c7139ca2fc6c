"""Cores that VirtualBox writes: registers of its own notes, and memory that is not RAM."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pydump
from elf_files import Core, Load, pages

#: Source: VirtualBox, struct DBGFCORECPU of dbgfcorefmt.h.
GENERAL = "rax rbx rcx rdx rsi rdi r8 r9 r10 r11 r12 r13 r14 r15 rip rsp rbp rflags".split()
SEGMENTS = "cs ds es fs gs ss".split()


def note(name: bytes, type_: int, desc: bytes) -> bytes:
    """The name's NUL is not counted. Source: Elf64WriteNoteHdr of DBGFCoreWrite.cpp."""
    padded = (name + b"\0").ljust(8, b"\0")
    return struct.pack("<III", len(name), len(desc), type_) + padded + desc


def cpu(seed: int) -> tuple[bytes, dict[str, int]]:
    """The note of a CPU, and the registers in it. The code segment is that of 64-bit kernel code."""
    chance = random.Random(seed)
    values = {name: chance.getrandbits(64) for name in (*GENERAL, "cr0", "cr2", "cr3", "cr4", "kernel_gs_base")}
    desc = struct.pack("<18Q", *(values[name] for name in GENERAL))

    def segment(name: str) -> bytes:
        base, selector = chance.getrandbits(64), chance.getrandbits(16)
        values.update({f"{name}_base": base, name: selector, f"{name}_limit": 0xFFFFFFFF, f"{name}_flags": 0xA09B00})
        return struct.pack("<QIIHHI", base, 0xFFFFFFFF, 0xA09B, selector, 0, 0)

    desc += b"".join(map(segment, SEGMENTS))
    desc += struct.pack("<4Q8Q", *(values[name] for name in ("cr0", "cr2", "cr3", "cr4")), *range(8))
    for table in ("gdt", "idt"):
        values |= {f"{table}_base": chance.getrandbits(64), f"{table}_limit": 0x7F}
        desc += struct.pack("<QII", values[f"{table}_base"], 0x7F, 0)
    desc += segment("ldt") + segment("tr") + struct.pack("<3Q", 1, 2, 3)
    desc += struct.pack("<7Q", 0xD01, 4, 5, 6, 7, 8, values["kernel_gs_base"])
    return note(b"VBCPU", 0xB01, desc + bytes(8 * 5 + 512)), values


def core(cpus: list[bytes]) -> bytes:
    descriptor = struct.pack("<6I", 0xC01AC0DE, 0x00010006, 24, 0x07000000, 1, len(cpus))
    loads = [
        Load(0, pages(8)),
        Load(0xE0000000, pages(4, 2)),
        Load(0xF0400000, pages(1, 3)),
        Load(1 << 32, pages(2, 4)),
    ]
    made = Core(loads, notes=[note(b"VBCORE", 0xB00, descriptor) + b"".join(cpus)], align=0)
    data = bytearray(Core(loads, notes=made.notes, align=8).build())
    data[6] = 0  # EI_VERSION, which VirtualBox leaves out
    return bytes(data)


def test_registers_and_ram(tmp_path: Path) -> None:
    cpus = [cpu(1), cpu(2)]
    (tmp_path / "in").write_bytes(core([data for data, _ in cpus]))
    report = pydump.dump(tmp_path / "in", tmp_path / "out", format="kdump", compression="zlib")
    assert (report.complete, report.warnings) == (True, ())
    for path in (tmp_path / "in", tmp_path / "out"):
        with pydump.open(path) as dump:
            assert [(part.paddr, part.end) for part in dump.guest.memory] == [
                (0, 0x8000),
                (1 << 32, (1 << 32) + 0x2000),
            ]
            assert dump.read(1 << 32, 0x2000) == pages(2, 4)
            assert dump.guest.n_cpus == 2
            for found, (_, values) in zip(dump.cpus, cpus, strict=True):
                assert {name: found.registers[name] for name in values} == values
    with pydump.open(tmp_path / "in") as dump:
        assert ("not read", f"{5 * 4096} bytes of memory of devices") in dump.image.describe()


def test_a_short_note_of_a_cpu_has_no_registers(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(core([note(b"VBCPU", 0xB01, bytes(100))]))
    with pydump.open(tmp_path / "in") as dump:
        assert dump.cpus == ()
        assert dump.read(0, 0x8000) == pages(8)


def test_notes_of_that_name_alone_change_nothing(tmp_path: Path) -> None:
    loads = [Load(0xE0000000, pages(4))]
    data = Core(loads, notes=[note(b"VBCORE", 0xB00, bytes(24)) + cpu(1)[0]]).build()
    (tmp_path / "in").write_bytes(data)
    with pydump.open(tmp_path / "in") as dump:
        assert dump.read(0xE0000000, 0x4000) == pages(4)
        assert dump.cpus == ()
