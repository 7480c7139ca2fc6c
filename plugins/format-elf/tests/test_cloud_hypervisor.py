"""The core that Cloud Hypervisor writes: QEMU's notes, of processors that count from 0, and no VMCOREINFO.

Source: struct X86_64ElfPrStatus and struct CpuState of vmm/src/coredump.rs, and the order of notes in vmm/src/vm.rs.
"""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pydump
from elf_files import Core, Load, pages

GENERAL = (
    "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs rflags rsp ss fs_base gs_base".split()
)
STATE = "rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags".split()
SEGMENTS = "cs ds es fs gs ss ldt tr gdt idt".split()


def processor(number: int) -> tuple[bytes, bytes, dict[str, int]]:
    """The two notes' contents of a processor, and its registers. Code runs in the upper half, as a kernel's does."""
    chance = random.Random(number)
    values = {name: chance.getrandbits(63) for name in {*GENERAL, *STATE}} | {"rip": 0xFFFFFFFF81000000 + number}
    values |= {"orig_rax": 0, **{f"cr{i}": chance.getrandbits(31) for i in range(5)}, "kernel_gs_base": 7 + number}
    for name in SEGMENTS:
        values[name] = chance.getrandbits(16) if name not in ("gdt", "idt") else 0
        values |= {f"{name}_limit": 0xFFFF, f"{name}_flags": 0, f"{name}_base": values.get(f"{name}_base", number)}
    status = struct.pack("<32xI76x", number) + struct.pack("<23Q", *(values[name] for name in GENERAL))
    status += struct.pack("<4Q8x", *(values[name] for name in ("ds", "es", "fs", "gs")))
    state = struct.pack("<II18Q", 1, 440, *(values[name] for name in STATE))
    for name in SEGMENTS:
        state += struct.pack("<IIIIQ", values[name], 0xFFFF, 0, 0, values[f"{name}_base"])
    state += struct.pack("<6Q", *(values[f"cr{i}"] for i in range(5)), values["kernel_gs_base"])
    return status, state, values


def test_its_processors_keep_their_order_and_registers(tmp_path: Path) -> None:
    loads = [Load(0, pages(16)), Load(1 << 32, pages(4, 2))]
    processors = [processor(i) for i in range(3)]
    core = Core(loads)
    notes = [core.note(b"CORE", 1, status) for status, _, _ in processors]
    notes += [core.note(b"QEMU", 0, state) for _, state, _ in processors]
    (tmp_path / "core").write_bytes(Core(loads, notes=[b"".join(notes)]).build())
    report = pydump.dump(tmp_path / "core", tmp_path / "out", compression="zlib")
    assert report.complete
    for path in (tmp_path / "core", tmp_path / "out"):
        with pydump.open(path) as dump:
            assert dump.guest.arch == "x86_64"
            assert dump.read(1 << 32, 4 * 4096) == pages(4, 2)
            for found, (_, _, values) in zip(dump.cpus, processors, strict=True):
                assert {name: found.registers[name] for name in values} == values
