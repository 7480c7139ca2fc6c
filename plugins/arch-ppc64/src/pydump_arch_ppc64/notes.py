"""The notes of a ppc64 CPU, as tables, and what QEMU writes wrongly in them.

Source: struct pt_regs and the ELF_N*REG numbers (arch/powerpc/include/uapi/asm/{ptrace,elf}.h) of the Linux kernel.
The order, the note names (the kernel calls the last three LINUX) and the sizes are those of QEMU's
target/ppc/arch_dump.c.
"""

from __future__ import annotations

from typing import Final

from pydump.layout.registers import NoteKind, numbered, run, splice
from pydump.model.guest import ByteOrder
from pydump.model.note import Note

PR_PID_OFFSET: Final = 32

PRSTATUS: Final = NoteKind(
    "PRSTATUS",
    "CORE",
    1,
    504,
    run(PR_PID_OFFSET, 4, "pr_pid")
    + run(112, 8, numbered("r{}", 32) + " nip msr orig_r3 ctr lr xer cr softe trap dar dsisr result"),
)
FPREGSET: Final = NoteKind("FPREGSET", "CORE", 2, 264, run(0, 8, numbered("f{}", 32) + " fpscr"))
#: vscr is the low word of a vector register of its own; vrsave is the first word of its 16 bytes.
VMX: Final = NoteKind(
    "VMX", "CORE", 0x100, 544, run(0, 16, numbered("v{}", 32)) + run(512, 16, "vscr", bits=32) + run(528, 4, "vrsave")
)
#: The low halves of vs0 to vs31; the high halves are f0 to f31, and v0 to v31 are vs32 to vs63.
VSX: Final = NoteKind("VSX", "CORE", 0x102, 256, run(0, 8, numbered("vs{}_low", 32)))
SPE: Final = NoteKind(
    "SPE", "CORE", 0x101, 140, run(0, 4, numbered("evr{}", 32)) + run(128, 8, "spe_acc") + run(136, 4, "spefscr")
)

NOTES: Final = (PRSTATUS, FPREGSET, VMX, VSX, SPE)


def with_pids(notes: tuple[Note, ...], byte_order: ByteOrder) -> tuple[Note, ...]:
    """QEMU's notes with pr_pid = CPU index + 1, which QEMU leaves 0.

    The kernel's own notes, in which the idle tasks' pr_pid is 0 rightly, stay as they are: it never writes VMX notes.
    """
    heads = [note for note in notes if PRSTATUS.matches(note)]
    by_qemu = any(VMX.matches(note) for note in notes)
    if not by_qemu or any(any(note.desc[PR_PID_OFFSET : PR_PID_OFFSET + 4]) for note in heads):
        return notes
    index = 0
    numbered_notes = []
    for note in notes:
        if PRSTATUS.matches(note):
            index += 1
            note = splice(note, PR_PID_OFFSET, index.to_bytes(4, byte_order))
        numbered_notes.append(note)
    return tuple(numbered_notes)


def without_pids(notes: tuple[Note, ...]) -> tuple[Note, ...]:
    """The notes with pr_pid 0."""
    return tuple(splice(note, PR_PID_OFFSET, bytes(4)) if PRSTATUS.matches(note) else note for note in notes)
