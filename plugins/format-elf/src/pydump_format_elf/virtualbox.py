"""The notes of a core that VirtualBox wrote (``VBoxManage debugvm dumpvmcore``), and the device memory in it.

Source: VirtualBox, include/VBox/vmm/dbgfcorefmt.h and src/VBox/VMM/VMMR3/DBGFCoreWrite.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pydump.layout.struct import U32, U64, Layout
from pydump.model.guest import ByteOrder, Cpu
from pydump.model.note import Note

CORE_NAME: Final = "VBCORE"
CPU_NAME: Final = "VBCPU"
MAGIC: Final = 0xC01AC0DE
#: RAM ends here below 4 GiB; above are the memory of the graphics card, and other devices'.
RAM_END: Final = 0xE0000000
_4G: Final = 1 << 32
#: In a note, 24 bytes each: base, limit, attributes, selector.
_SEGMENTS: Final = "cs ds es fs gs ss".split()
_SEGMENT: Final = "QIIH6x"


class CoreDescriptor(Layout):
    """The content of the first note."""

    magic: U32 = 0
    version: U32 = 0
    size: U32 = 0
    vbox_version: U32 = 0
    vbox_revision: U32 = 0
    n_cpus: U32 = 0


class CpuHead(Layout):
    """The registers that a CPU's note begins with."""

    rax: U64 = 0
    rbx: U64 = 0
    rcx: U64 = 0
    rdx: U64 = 0
    rsi: U64 = 0
    rdi: U64 = 0
    r8: U64 = 0
    r9: U64 = 0
    r10: U64 = 0
    r11: U64 = 0
    r12: U64 = 0
    r13: U64 = 0
    r14: U64 = 0
    r15: U64 = 0
    rip: U64 = 0
    rsp: U64 = 0
    rbp: U64 = 0
    rflags: U64 = 0


#: Behind them: six segments, cr0 cr2 cr3 cr4, dr0 to dr7, gdtr and idtr, ldtr and tr, three registers of sysenter,
#: and EFER, STAR, PAT, LSTAR, CSTAR, SFMASK and KernelGSBase.
_REST: Final = struct.Struct("<" + _SEGMENT * 6 + "4Q" + "8Q" + "QI4x" * 2 + _SEGMENT * 2 + "3Q" + "7Q")


def is_virtualbox(notes: Sequence[Note], byte_order: ByteOrder) -> bool:
    """Whether VirtualBox wrote the file that has these notes."""
    first = next((note.desc for note in notes if note.name == CORE_NAME), b"")
    return len(first) >= CoreDescriptor.nbytes() and CoreDescriptor.unpack(first, byte_order).magic == MAGIC


def read_cpus(notes: Sequence[Note], byte_order: ByteOrder) -> tuple[Cpu, ...]:
    """The registers of each CPU, by the names they have in QEMU's notes."""
    size = CpuHead.nbytes() + _REST.size
    found = [note.desc for note in notes if note.name == CPU_NAME and len(note.desc) >= size]
    return tuple(Cpu(i, _registers(desc, byte_order)) for i, desc in enumerate(found))


def without_devices(loads: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """The PT_LOADs of RAM, and how many bytes of memory of devices are left out."""
    paddrs = loads["p_paddr"]
    devices = (paddrs >= np.uint64(RAM_END)) & (paddrs < np.uint64(_4G))
    return loads[~devices], int(loads["p_filesz"][devices].sum())


def _registers(desc: bytes, byte_order: ByteOrder) -> dict[str, int]:
    head = CpuHead.unpack(desc, byte_order)
    # The places that QEMU's notes have for these are 0 in its own dumps, too.
    registers = dict(zip(head._names, head, strict=True)) | {"orig_rax": 0, "cr1": 0}
    rest = list(_REST.unpack_from(desc, CpuHead.nbytes()))

    def take(count: int) -> list[int]:
        taken = rest[:count]
        del rest[:count]
        return taken

    def segment(name: str) -> None:
        base, limit, attributes, selector = take(4)
        # As the second word of a descriptor has them. Source: X86DESCATTRBITS in VirtualBox's iprt/x86.h.
        flags = (attributes & 0xF0FF) << 8
        registers.update({name: selector, f"{name}_base": base, f"{name}_limit": limit, f"{name}_flags": flags})

    for name in _SEGMENTS:
        segment(name)
    registers |= dict(zip(("cr0", "cr2", "cr3", "cr4"), take(4), strict=True))
    take(8)
    for table in ("gdt", "idt"):
        base, limit = take(2)
        registers |= {table: 0, f"{table}_base": base, f"{table}_limit": limit, f"{table}_flags": 0}
    segment("ldt")
    segment("tr")
    take(3)
    registers["kernel_gs_base"] = take(7)[-1]
    return registers
