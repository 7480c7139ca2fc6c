"""The skeleton architecture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydump.hookspecs import hookimpl
from pydump.interfaces.arch import Arch
from pydump.layout.registers import NoteKind, numbered, run
from pydump.model.guest import ByteOrder

#: In the order of the kernel's user_regs_struct.
GENERAL = "pc sp " + numbered("r{}", 16)


class SkeletonArch(Arch):
    """A 64-bit machine."""

    name: ClassVar[str] = "skeleton"
    machine: ClassVar[int] = 0xFEED
    byte_order: ClassVar[ByteOrder] = "little"
    elf_class: ClassVar[int] = 64
    page_sizes: ClassVar[tuple[int, ...]] = (4096,)
    # struct elf_prstatus where long has 64 bits: pr_pid at 32, the registers at 112, pr_fpvalid behind them.
    note_kinds: ClassVar[tuple[NoteKind, ...]] = (
        NoteKind("PRSTATUS", "CORE", 1, 112 + 18 * 8 + 8, run(32, 4, "pr_pid") + run(112, 8, GENERAL)),
    )


@hookimpl
def pydump_register_arches() -> Sequence[type[Arch]]:
    """``--arch skeleton``."""
    return [SkeletonArch]
