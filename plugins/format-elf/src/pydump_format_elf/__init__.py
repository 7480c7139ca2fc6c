"""ELF vmcores: the format's name, and how to tell a file of it.

Reader and writer are loaded when one is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydump.hookspecs import hookimpl
from pydump.interfaces.format import Format
from pydump.layout.elf import ELFMAG
from pydump.options import option

if TYPE_CHECKING:
    from pydump.interfaces.backing import Backing
    from pydump.interfaces.compressor import Compressor
    from pydump.interfaces.format import KernelFile, Opened
    from pydump.interfaces.image import MemoryImage
    from pydump.interfaces.writer import Writer
    from pydump.model.plan import Plan


@dataclass(frozen=True, slots=True)
class ElfOptions:
    """How the file is written."""

    sparse: bool = option(False, help="leave holes in the file instead of zeros", alias="--sparse")


class ElfFormat(Format):
    """An ELF core file whose PT_LOAD segments are guest memory."""

    name: ClassVar[str] = "elf"
    qemu_writes: ClassVar[bool] = True
    maps_vaddrs: ClassVar[bool] = True
    #: As makedumpfile does: 256 pages of 4 KiB. Each run that is left out costs a program header.
    least_hole: ClassVar[int] = 1 << 20
    Options: ClassVar[type] = ElfOptions

    @classmethod
    def detect(cls, head: bytes) -> bool:
        return head.startswith(ELFMAG)

    @classmethod
    def open(cls, opened: Opened) -> MemoryImage:
        from pydump_format_elf.reader import ElfImage
        from pydump_format_elf.xen import open_xen

        return open_xen(opened.files[0]) or ElfImage(opened.files[0])

    @classmethod
    def kernel(cls, file: Backing) -> KernelFile:
        from pydump_format_elf.vmlinux import Vmlinux

        return Vmlinux(file)

    @classmethod
    def machine_name(cls, machine: int) -> str | None:
        from pydump_format_elf.names import machine_name

        return machine_name(machine)

    @classmethod
    def note_type_name(cls, name: str, type_: int) -> str | None:
        from pydump_format_elf.names import note_type_name

        return note_type_name(name, type_)

    @classmethod
    def writer(cls, plan: Plan, compressor: Compressor | None) -> Writer:
        from pydump_format_elf.writer import ElfWriter, QemuElfWriter

        return QemuElfWriter(plan) if plan.compat == "qemu" else ElfWriter(plan)


@hookimpl
def pydump_register_formats() -> Sequence[type[Format]]:
    """``--format elf``."""
    return [ElfFormat]
