"""What lies in a Windows crash dump behind its header, and the structs of Windows that lead to its registers.

Source: QEMU's include/qemu/win_dump_defs.h (runs, contexts, offsets in the debugger's data block) and
contrib/elf2dmp/kdbg.h (the data block); Volatility 3's crash_common.json (_SUMMARY_DUMP); kdmp-parser's
kdmp-parser-structs.h (BMP_HEADER64, RDMP_HEADER64, KERNEL_RDMP_HEADER64, FULL_RDMP_HEADER64). Names are Microsoft's, in
lower case.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final

from pydump.layout.registers import NoteKind, numbered, run
from pydump.layout.struct import U16, U32, U64, Bytes4, Layout

#: Bytes of a page: Windows has no other for x86 and AMD64.
PAGE_SIZE: Final = 4096


class DumpType(IntEnum):
    """DumpType of a header."""

    FULL = 1
    SUMMARY = 2
    HEADER = 3
    TRIAGE = 4
    BITMAP_FULL = 5
    BITMAP_KERNEL = 6
    KERNEL = 8
    KERNEL_AND_USER = 9
    COMPLETE = 10


#: Dumps whose pages a bitmap counts, and those whose pages a list of runs counts.
BITMAP_TYPES: Final = (DumpType.SUMMARY, DumpType.BITMAP_FULL, DumpType.BITMAP_KERNEL)
RANGE_TYPES: Final = (DumpType.KERNEL, DumpType.KERNEL_AND_USER, DumpType.COMPLETE)


class PhysicalMemoryDescriptor64(Layout):
    """PHYSICAL_MEMORY_DESCRIPTOR64, which its runs follow."""

    number_of_runs: U32 = 0
    unused: U32 = 0
    number_of_pages: U64 = 0


class PhysicalMemoryDescriptor32(Layout):
    """PHYSICAL_MEMORY_DESCRIPTOR32, which its runs follow."""

    number_of_runs: U32 = 0
    number_of_pages: U32 = 0


class PhysicalMemoryRun64(Layout):
    """PHYSICAL_MEMORY_RUN64, in pages."""

    base_page: U64 = 0
    page_count: U64 = 0


class PhysicalMemoryRun32(Layout):
    """PHYSICAL_MEMORY_RUN32, in pages."""

    base_page: U32 = 0
    page_count: U32 = 0


DESCRIPTORS: Final[dict[int, type[PhysicalMemoryDescriptor64] | type[PhysicalMemoryDescriptor32]]] = {
    64: PhysicalMemoryDescriptor64,
    32: PhysicalMemoryDescriptor32,
}
RUNS: Final[dict[int, type[PhysicalMemoryRun64] | type[PhysicalMemoryRun32]]] = {
    64: PhysicalMemoryRun64,
    32: PhysicalMemoryRun32,
}
#: Runs that the 700 bytes of a header's physical_memory_block hold.
MAX_RUNS: Final = {64: 42, 32: 86}


class SummaryDump(Layout):
    """SUMMARY_DUMP, BMP_HEADER64: behind the header of a bitmap dump; the bitmap follows it, lowest page first."""

    signature: Bytes4 = b"SDMP"
    valid_dump: Bytes4 = b"DUMP"
    dump_options: U32 = 0
    unused: Annotated[bytes, "20s"] = b""
    first_page: U64 = 0
    total_present_pages: U64 = 0
    pages: U64 = 0


#: What a SUMMARY_DUMP may begin with.
SUMMARY_SIGNATURES: Final = (b"SDMP", b"FDMP")


class RangeDump(Layout):
    """RDMP_HEADER64 and what follows it up to the runs: behind the header of a kernel or complete dump."""

    marker: U32 = 0x40
    signature: Bytes4 = b"RDMP"
    valid_dump: Bytes4 = b"DUMP"
    unused: U32 = 0
    metadata_size: U64 = 0
    first_page: U64 = 0
    number_of_ranges: U32 = 0
    unused2: U32 = 0
    total_number_of_pages: U64 = 0


class KdDebuggerData64(Layout):
    """KDDEBUGGER_DATA64 as far as it is needed; its numbers have 64 bits on a 32-bit Windows, too."""

    list_flink: U64 = 0
    list_blink: U64 = 0
    owner_tag: Bytes4 = b"KDBG"
    size: U32 = 0
    kern_base: U64 = 0
    unused0: Annotated[bytes, "40s"] = b""
    ps_loaded_module_list: U64 = 0
    ps_active_process_head: U64 = 0
    unused1: Annotated[bytes, "48s"] = b""
    ki_bugcheck_data: U64 = 0
    unused2: Annotated[bytes, "48s"] = b""
    mm_pfn_database: U64 = 0
    unused3: Annotated[bytes, "336s"] = b""
    ki_processor_block: U64 = 0
    unused4: Annotated[bytes, "280s"] = b""
    offset_prcb_context: U16 = 0


class DbgkdGetVersion64(Layout):
    """DBGKD_GET_VERSION64, to which a processor's control region points on a 32-bit Windows and on old 64-bit ones."""

    major_version: U16 = 0
    minor_version: U16 = 0
    protocol_version: Annotated[int, "B"] = 0
    kd_secondary_version: Annotated[int, "B"] = 0
    flags: U16 = 0
    machine_type: U16 = 0
    unused: Annotated[bytes, "6s"] = b""
    kern_base: U64 = 0
    ps_loaded_module_list: U64 = 0
    debugger_data_list: U64 = 0


#: ContextFlags: control, integer and floating point registers, segments and debug registers of an AMD64 CPU.
CONTEXT_AMD64_ALL: Final = 0x10001F
#: ContextFlags: control and integer registers, segments and debug registers of an x86 CPU.
CONTEXT_I386_FULL: Final = 0x10007 | 0x10
#: What these registers hold after a reset: nothing in a guest's notes says more of them.
#: Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 3, table 9-1.
_MXCSR, _DR6, _DR7 = 0x1F80, 0xFFFF0FF0, 0x400

#: CONTEXT of an AMD64 CPU (WinContext64).
CONTEXT_64: Final = NoteKind(
    "CONTEXT",
    "CONTEXT",
    0,
    1232,
    run(0x38, 2, "cs ds es fs gs ss")
    + run(0x44, 4, "rflags")
    + run(0x78, 8, "rax rcx rdx rbx rsp rbp rsi rdi")
    + run(0xB8, 8, numbered("r{}", 8, first=8))
    + run(0xF8, 8, "rip"),
    constants=(
        (0x30, 4, CONTEXT_AMD64_ALL),
        (0x34, 4, _MXCSR),
        (0x68, 8, _DR6),
        (0x70, 8, _DR7),
        (0x118, 4, _MXCSR),
    ),
)

#: CONTEXT of an x86 CPU (WinContext32).
CONTEXT_32: Final = NoteKind(
    "CONTEXT",
    "CONTEXT",
    0,
    716,
    run(0x8C, 4, "gs fs es ds", bits=16)
    + run(0x9C, 4, "edi esi ebx edx ecx eax ebp eip")
    + run(0xBC, 4, "cs", bits=16)
    + run(0xC0, 4, "eflags esp")
    + run(0xC8, 4, "ss", bits=16),
    constants=((0x00, 4, CONTEXT_I386_FULL), (0x14, 4, _DR6), (0x18, 4, _DR7)),
)
CONTEXTS: Final = {64: CONTEXT_64, 32: CONTEXT_32}
#: Where ContextFlags lies, and the bits that a context with integer and control registers has.
CONTEXT_FLAGS: Final = {64: (0x30, 0x100003), 32: (0x00, 0x10003)}
