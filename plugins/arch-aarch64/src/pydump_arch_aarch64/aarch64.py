"""The aarch64 architecture.

Source of the notes: struct user_pt_regs and user_fpsimd_state (arch/arm64/include/uapi/asm/ptrace.h) of the Linux
kernel; the order is that of QEMU's target/arm/arch_dump.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

from pydump.interfaces.arch import Arch, KernelTables, ReadPhysical
from pydump.interfaces.quirks import Quirks
from pydump.layout.registers import NoteKind, numbered, run
from pydump.model.guest import ByteOrder, Guest
from pydump_arch_aarch64.paging import Aarch64Tables
from pydump_arch_aarch64.sve import SVE

#: Bits of kernel address that Linux can be built for. Source: arch/arm64/Kconfig, ARM64_VA_BITS.
VA_BITS: Final = (36, 39, 42, 47, 48, 52)


def phys_offset(guest: Guest) -> int:
    """PHYS_OFFSET of VMCOREINFO, or else the lowest RAM address."""
    offset = guest.vmcoreinfo.number("PHYS_OFFSET") if guest.vmcoreinfo else None
    return guest.memory.start if offset is None else offset


class Aarch64Quirks(Quirks):
    """QEMU reads PHYS_OFFSET correctly: it is written in hexadecimal."""

    def phys_base(self, guest: Guest) -> int:
        return phys_offset(guest)


class Aarch64Arch(Arch):
    """64-bit Arm."""

    name: ClassVar[str] = "aarch64"
    aliases: ClassVar[tuple[str, ...]] = ("aarch64_be", "arm64")
    machine: ClassVar[int] = 183
    byte_order: ClassVar[ByteOrder] = "little"
    bi_endian: ClassVar[bool] = True
    elf_class: ClassVar[int] = 64
    page_sizes: ClassVar[tuple[int, ...]] = (4096, 65536, 16384)
    section_size_bits: ClassVar[tuple[int, ...]] = (27, 29, 30)
    max_physmem_bits: ClassVar[tuple[int, ...]] = (48, 52)
    note_kinds: ClassVar[tuple[NoteKind, ...]] = (
        NoteKind(
            "PRSTATUS",
            "CORE",
            1,
            392,
            run(32, 4, "pr_pid") + run(112, 8, numbered("x{}", 31) + " sp pc pstate"),
            constants=((384, 4, 1),),  # pr_fpvalid
        ),
        NoteKind("FPREGSET", "CORE", 2, 528, run(0, 16, numbered("v{}", 32)) + run(512, 4, "fpsr fpcr")),
        SVE,
    )
    #: QEMU takes the largest page that a kernel can have, whatever the guest's is.
    quirks: ClassVar[Quirks] = Aarch64Quirks(page_size=65536)

    @classmethod
    def uts_machine(cls, byte_order: ByteOrder) -> str:
        return "aarch64" if byte_order == "little" else "aarch64_be"

    @classmethod
    def phys_base(cls, guest: Guest) -> int:
        """PHYS_OFFSET, where the linear map begins; without VMCOREINFO the lowest RAM address."""
        return phys_offset(guest)

    @classmethod
    def kernel_tables(cls, guest: Guest, read: ReadPhysical) -> Iterator[KernelTables]:
        """The kernel's own tables, which VMCOREINFO names; the notes have no TTBR1_EL1."""
        info = guest.vmcoreinfo
        if info is None:
            return
        tables = info.symbol("swapper_pg_dir")
        offset, va_bits, page_size = info.number("kimage_voffset"), info.number("VA_BITS"), info.page_size
        if tables is None or offset is None or va_bits is None or page_size is None:
            return
        unused = info.number("TCR_EL1_T1SZ")
        if unused is not None and page_size != 65536:
            # A kernel built for 52 bits runs with fewer on a CPU that lacks them, and then has a level less. With
            # 64 KiB pages it keeps the large top table and uses its end.
            va_bits = 64 - unused
        if va_bits not in VA_BITS or page_size not in cls.page_sizes:
            return
        space = Aarch64Tables(
            read,
            guest.memory,
            tables - offset,
            page_size=page_size,
            va_bits=va_bits,
            # CONFIG_ARM64_PA_BITS; kernels before 5.10 do not say.
            pa_bits=info.number("MAX_PHYSMEM_BITS") or va_bits,
            byte_order=guest.byte_order or cls.byte_order,
        )
        yield KernelTables(space, offset)
