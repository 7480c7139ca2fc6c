"""The notes of an x86 CPU, as tables.

Source: struct elf_prstatus and struct user_regs_struct of the Linux kernel (arch/x86/include/asm/user_64.h and
user_32.h); struct QEMUCPUState in QEMU's target/i386/arch_dump.c, which crash and libkdumpfile read as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydump.layout.registers import Field, NoteKind, numbered, run
from pydump.model.guest import Cpu

PRSTATUS_X86_64: Final = NoteKind(
    "PRSTATUS",
    "CORE",
    1,
    336,
    run(32, 4, "pr_pid")
    + run(112, 8, "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip")
    + run(248, 8, "cs", bits=16)
    + run(256, 8, "rflags rsp")
    + run(272, 8, "ss", bits=16)
    + run(280, 8, "fs_base gs_base")
    + run(296, 8, "ds es fs gs", bits=16),
)

PRSTATUS_I386: Final = NoteKind(
    "PRSTATUS",
    "CORE",
    1,
    144,
    run(24, 4, "pr_pid")
    + run(72, 4, "ebx ecx edx esi edi ebp eax")
    + run(100, 4, "ds es fs gs", bits=16)
    + run(116, 4, "orig_eax eip")
    + run(124, 4, "cs", bits=16)
    + run(128, 4, "eflags esp")
    + run(136, 4, "ss", bits=16),
)


def _segment(offset: int, name: str, *, base_bits: int) -> tuple[Field, ...]:
    """Struct QEMUCPUSegment: selector, limit, flags, four bytes of padding, base."""
    return (
        run(offset, 4, name, bits=16)
        + run(offset + 4, 4, f"{name}_limit {name}_flags")
        + run(offset + 16, 8, f"{name}_base", bits=base_bits)
    )


def _qemu(general: str, ip_and_flags: str, *, bits: int) -> NoteKind:
    """QEMU's own note, version 1; older copies of it end before kernel_gs_base."""
    segments = ("cs", "ds", "es", "fs", "gs", "ss", "ldt", "tr", "gdt", "idt")
    return NoteKind(
        "QEMU",
        "QEMU",
        0,
        440,
        run(8, 8, general, bits=bits)
        + run(72, 8, numbered("r{}", 8, first=8))
        + run(136, 8, ip_and_flags, bits=bits)
        + tuple(f for i, name in enumerate(segments) for f in _segment(152 + 24 * i, name, base_bits=bits))
        + run(392, 8, numbered("cr{}", 5), bits=bits)
        + run(432, 8, "kernel_gs_base"),
        constants=((0, 4, 1), (4, 4, None)),
        least=432,
    )


QEMU_X86_64: Final = _qemu("rax rbx rcx rdx rsi rdi rsp rbp", "rip rflags", bits=64)
#: r8 to r15 are there because a 64-bit CPU that is not in long mode is dumped as an i386 too.
QEMU_I386: Final = _qemu("eax ebx ecx edx esi edi esp ebp", "eip eflags", bits=32)


def interrupt_tables(cpus: Sequence[Cpu], *, gate_size: int) -> tuple[tuple[int, int], ...]:
    """``(vaddr, size)`` of the interrupt descriptor tables that the CPUs use: 256 gates each.

    Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 3, 6.10.
    """
    tables = {cpu.registers.get("idt_base", 0) for cpu in cpus} - {0}
    return tuple((table, 256 * gate_size) for table in sorted(tables))
