"""The notes of an s390x CPU, as tables.

Source: struct elf_prstatus, s390_regs and s390_fp_regs (arch/s390/include/uapi/asm/ptrace.h) and the NT_S390 numbers
(include/uapi/linux/elf.h) of the Linux kernel. The order is that of QEMU's target/s390x/arch_dump.c.
"""

from __future__ import annotations

from typing import Final

from pydump.layout.registers import NoteKind, numbered, run

PR_PID_OFFSET: Final = 32

#: f0 to f15 are the high halves of the vector registers v0 to v15.
NOTES: Final = (
    NoteKind(
        "PRSTATUS",
        "CORE",
        1,
        336,
        run(PR_PID_OFFSET, 4, "pr_pid")
        + run(112, 8, "psw_mask psw_addr " + numbered("r{}", 16))
        + run(256, 4, numbered("acr{}", 16))
        + run(320, 8, "orig_gpr2"),
    ),
    NoteKind("FPREGSET", "CORE", 2, 136, run(0, 4, "fpc") + run(8, 8, numbered("f{}", 16))),
    NoteKind("PREFIX", "LINUX", 0x305, 4, run(0, 4, "prefix")),
    NoteKind("CTRS", "LINUX", 0x304, 128, run(0, 8, numbered("cr{}", 16))),
    NoteKind("TIMER", "LINUX", 0x301, 8, run(0, 8, "timer")),
    NoteKind("TODCMP", "LINUX", 0x302, 8, run(0, 8, "todcmp")),
    NoteKind("TODPREG", "LINUX", 0x303, 4, run(0, 4, "todpreg")),
    NoteKind("VXRS_LOW", "LINUX", 0x309, 128, run(0, 8, numbered("v{}_low", 16))),
    NoteKind("VXRS_HIGH", "LINUX", 0x30A, 256, run(0, 16, numbered("v{}", 16, first=16))),
    NoteKind("GS_CB", "LINUX", 0x30B, 32, run(0, 8, "gs_reserved gsd gssm gsepla")),
)
