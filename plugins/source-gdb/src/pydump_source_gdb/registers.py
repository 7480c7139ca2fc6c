"""From the registers of a target description to those of pydump's notes.

Sources: the names in gdb/features of GDB and in gdb-xml of QEMU; pydump --arch NAME lists pydump's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydump.layout.registers import numbered
from pydump.model.guest import ByteOrder

#: EFER.LMA: the CPU is in long mode. Source: Intel SDM volume 3, 2.2.1.
EFER_LMA: Final = 1 << 10
#: MSR of 64-bit PowerPC: 64-bit mode, and little-endian. Source: Power ISA 3.1, book III, 4.2.1.
MSR_SF, MSR_LE = 1 << 63, 1


def _same(names: str) -> dict[str, str]:
    return {name: name for name in names.split()}


@dataclass(frozen=True)
class Names:
    """The registers of an architecture.

    Attributes:
        arch: Pydump's name of it.
        byte_order: Of numbers in the protocol; None where a register says it.
        names: A description's name to pydump's.
        absent: Registers that QEMU's notes have as 0, where the description lacks them.
    """

    arch: str
    byte_order: ByteOrder | None
    names: Mapping[str, str]
    absent: tuple[str, ...] = ()


_SEGMENTS = "cs ss ds es fs gs"
_X86 = (
    _same(_SEGMENTS)
    | _same(" ".join(f"{name}_base" for name in _SEGMENTS.split()))
    | _same("cr0 cr2 cr3 cr4 efer")
    | {"k_gs_base": "kernel_gs_base"}
)
_LONG = "rax rbx rcx rdx rsi rdi rbp rsp " + numbered("r{}", 8, first=8) + " rip"
_SHORT = "eax ebx ecx edx esi edi ebp esp"
_RISCV = "pc ra sp gp tp t0 t1 t2 s1 a0 a1 a2 a3 a4 a5 a6 a7 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 t3 t4 t5 t6"

#: By gdb's name of the architecture.
KNOWN: Final[Mapping[str, Names]] = {
    "i386:x86-64": Names("x86_64", "little", _X86 | _same(_LONG) | {"eflags": "rflags"}, ("orig_rax", "cr1")),
    "i386": Names("i386", "little", _X86 | _same(_SHORT + " eip eflags"), ("orig_eax", "cr1")),
    "aarch64": Names(
        "aarch64",
        "little",
        _same(numbered("x{}", 31) + " sp pc fpsr fpcr " + numbered("v{}", 32))
        | _same(numbered("z{}", 32) + " " + numbered("p{}", 16) + " ffr vg")
        | {"cpsr": "pstate"},
    ),
    "s390:64-bit": Names(
        "s390x",
        "big",
        {"pswm": "psw_mask", "pswa": "psw_addr", "ckc": "todcmp", "cputm": "timer"}
        | _same(" ".join(numbered(pattern, 16) for pattern in ("r{}", "acr{}", "f{}", "cr{}")))
        | _same("fpc prefix gs_reserved gsd gssm gsepla " + numbered("v{}", 16, first=16))
        | {f"v{i}l": f"v{i}_low" for i in range(16)},
        ("orig_gpr2",),
    ),
    "powerpc:common64": Names(
        "ppc64",
        None,
        _same(numbered("r{}", 32) + " msr cr lr ctr xer fpscr vscr vrsave dar dsisr " + numbered("f{}", 32))
        | {"pc": "nip"}
        | {f"vr{i}": f"v{i}" for i in range(32)}
        | {f"vs{i}h": f"vs{i}_low" for i in range(32)},
        ("orig_r3", "softe", "trap", "result", "dar", "dsisr"),
    ),
    "riscv:rv64": Names("riscv64", "little", _same(_RISCV) | {"fp": "s0"}),
    "riscv:rv32": Names("riscv32", "little", _same(_RISCV) | {"fp": "s0"}),
    "arm": Names("arm", "little", _same(numbered("r{}", 13) + " sp lr pc cpsr fpscr " + numbered("d{}", 32))),
}


def byte_order_of(names: Names, raw: Mapping[str, bytes]) -> ByteOrder:
    """The byte order of a CPU's registers: that of its architecture, else that which its MSR makes sense in.

    Args:
        names: Its architecture's.
        raw: The registers as they came.
    """
    if names.byte_order is not None:
        return names.byte_order
    value = int.from_bytes(raw.get("msr", b""), "little")
    return "little" if value & MSR_LE and value & MSR_SF else "big"


def pydump_registers(names: Names, raw: Mapping[str, bytes], byte_order: ByteOrder) -> tuple[str, dict[str, int]]:
    """The architecture that a CPU is in, and its registers by pydump's names.

    Args:
        names: The architecture's by the description.
        raw: The registers as they came.
        byte_order: Of their numbers.
    """
    values = {names.names[name]: int.from_bytes(data, byte_order) for name, data in raw.items() if name in names.names}
    values = dict.fromkeys(names.absent, 0) | values
    efer = values.pop("efer", None)
    if names.arch == "x86_64" and efer is not None and not efer & EFER_LMA:
        return "i386", _short(values)
    if names.arch == "i386":
        values |= dict.fromkeys(numbered("r{}", 8, first=8).split(), 0)
    elif names.arch == "aarch64":
        _vectors(values, {name: len(data) for name, data in raw.items()})
    return names.arch, values


def _short(values: dict[str, int]) -> dict[str, int]:
    """The registers of a 64-bit x86 CPU that is not in long mode, as QEMU's notes have them."""
    moved = {f"r{name}": f"e{name}" for name in "ax bx cx dx si di bp sp ip flags".split()} | {"orig_rax": "orig_eax"}
    wide = {*numbered("r{}", 8, first=8).split(), "kernel_gs_base"}
    return {moved.get(name, name): value if name in wide else value & 0xFFFFFFFF for name, value in values.items()}


def _vectors(values: dict[str, int], sizes: Mapping[str, int]) -> None:
    """SVE registers: what lies beyond the vector length in use is not there, and the v registers are their low ends."""
    vg = values.pop("vg", 0)
    if "z0" not in values:
        return
    for i in range(32):
        if f"z{i}" in values:
            values[f"v{i}"] = values[f"z{i}"] & (1 << 128) - 1
    length = 8 * vg
    if not 16 <= length <= sizes["z0"]:
        for name in [name for name in values if re.fullmatch(r"[zp]\d+|ffr", name)]:
            del values[name]
        return
    for name in values:
        if re.fullmatch(r"z\d+", name):
            values[name] &= (1 << 8 * length) - 1
        elif re.fullmatch(r"p\d+|ffr", name):
            values[name] &= (1 << length) - 1
    values |= {"sve_vl": length, "sve_max_vl": sizes["z0"]}


_DESCRIPTOR = re.compile(
    r"^(ES|CS|SS|DS|FS|GS|LDT|TR|GDT|IDT) *= *(?:([0-9a-f]{4}) )?([0-9a-f]{8,16}) ([0-9a-f]{8})(?: ([0-9a-f]{8}))?",
    re.MULTILINE,
)


def descriptors(text: str, n_cpus: int) -> list[dict[str, int]]:
    """What QEMU's monitor says of an x86 CPU beyond its target description: segments and descriptor tables.

    Args:
        text: What ``info registers -a`` prints.
        n_cpus: How many CPUs there are.

    Returns:
        The registers of each CPU; empty where the text is not that of so many CPUs.
    """
    parts = re.split(r"^CPU#\d+\s*$", text, flags=re.MULTILINE)[1:]
    if len(parts) != n_cpus:
        return [{} for _ in range(n_cpus)]
    found = []
    for part in parts:
        registers: dict[str, int] = {}
        for name, selector, base, limit, flags in _DESCRIPTOR.findall(part):
            low = name.lower()
            registers |= {
                low: int(selector or "0", 16),
                f"{low}_base": int(base, 16),
                f"{low}_limit": int(limit, 16),
                f"{low}_flags": int(flags or "0", 16),
            }
        found.append(registers)
    return found
