"""64-bit LoongArch.

Source of the notes: struct elf_prstatus and struct user_pt_regs of the Linux kernel (arch/loongarch/include/uapi/asm/
ptrace.h), as QEMU's target/loongarch/arch_dump.c writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydump.hookspecs import hookimpl
from pydump.interfaces.arch import Arch
from pydump.layout.registers import NoteKind, numbered, run
from pydump.model.guest import ByteOrder


class Loongarch64Arch(Arch):
    """64-bit LoongArch, which is little-endian."""

    name: ClassVar[str] = "loongarch64"
    aliases: ClassVar[tuple[str, ...]] = ("loongarch",)
    machine: ClassVar[int] = 258
    byte_order: ClassVar[ByteOrder] = "little"
    elf_class: ClassVar[int] = 64
    page_sizes: ClassVar[tuple[int, ...]] = (16384, 4096, 65536)
    note_kinds: ClassVar[tuple[NoteKind, ...]] = (
        NoteKind(
            "PRSTATUS",
            "CORE",
            1,
            480,
            run(32, 4, "pr_pid") + run(112, 8, numbered("r{}", 32) + " orig_a0 era badv"),
            constants=((472, 4, 1),),  # pr_fpvalid: the next note follows
        ),
        # Without the padding that the kernel's struct has at its end.
        NoteKind("FPREGSET", "CORE", 2, 268, run(0, 8, numbered("f{}", 32) + " fcc") + run(264, 4, "fcsr")),
    )


@hookimpl
def pydump_register_arches() -> Sequence[type[Arch]]:
    """``--arch loongarch64``."""
    return [Loongarch64Arch]
