"""The registers of CPUs, from the state of each that a migration stream has.

The names are those of pydump's architectures. Source of each field's meaning: the vmstate_*_cpu descriptions in
target/*/machine.c of QEMU 7.2 and 10.0; of what becomes of it in a dump: target/*/arch_dump.c.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydump.model.guest import ByteOrder, Cpu
from pydump_qemu_stream.vmdesc import State

#: x86: long mode is active. Source: HF_LMA_MASK in target/i386/cpu.h.
HF_LMA: Final = 1 << 14
#: aarch64: this CPU runs 32-bit code. Source: PSTATE_nRW in target/arm/cpu.h.
PSTATE_NRW: Final = 1 << 4
#: arm: data accesses of the kernel are big-endian.
SCTLR_EE: Final = 1 << 25
#: Parts of what was one register, FPSCR. Source: FPSR_MASK and FPCR_MASK in target/arm/cpu.h.
FPSR_MASK: Final = 0xF800009F
FPCR_MASK: Final = 0x07FF9F00
#: ppc64: interrupts are taken in little-endian mode; and the numbers of special registers.
LPCR_ILE: Final = 1 << 25
SPR_XER, SPR_LR, SPR_CTR, SPR_LPCR = 1, 8, 9, 318
#: The longest SVE vector, in units of 16 bytes.
MAX_VQ: Final = 16
#: Numbers of system registers in ``cpreg_vmstate_indexes``: those that KVM gives them.
#: Source: Documentation/virt/kvm/api.rst of the Linux kernel, KVM_GET_ONE_REG.
SYSTEM_REGISTER: Final = 0x6030000000130000
SCTLR_EL1: Final = SYSTEM_REGISTER | 0xC080
#: The register that limits the length of vectors at each exception level.
ZCR: Final = {1: SYSTEM_REGISTER | 0xC090, 2: SYSTEM_REGISTER | 0xE090, 3: SYSTEM_REGISTER | 0xF090}
SCTLR_ARM: Final = 0x40200000000F0800
#: x1 to x31 of RISC-V, by their names in the calling convention.
RISCV: Final = "ra sp gp tp t0 t1 t2 s0 s1 a0 a1 a2 a3 a4 a5 a6 a7 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 t3 t4 t5 t6".split()


#: e_machine and class of each architecture. Source: elf.h.
MACHINES: Final = {
    "x86_64": (62, 64),
    "i386": (3, 32),
    "aarch64": (183, 64),
    "arm": (40, 32),
    "s390x": (22, 64),
    "ppc64": (21, 64),
    "riscv64": (243, 64),
    "riscv32": (243, 32),
}
#: What a note has room for and QEMU's dumps leave 0, so that nobody misses it.
UNSET: Final = {
    "x86_64": "orig_rax",
    "i386": "orig_eax r8 r9 r10 r11 r12 r13 r14 r15",
    "s390x": "orig_gpr2",
    "ppc64": "orig_r3 softe trap dar dsisr result vrsave spefscr " + " ".join(f"evr{i}" for i in range(32)),
}


@dataclass(frozen=True, slots=True)
class Processors:
    """What a stream says of the guest's CPUs.

    Attributes:
        arch: The architecture's name.
        byte_order: The guest's.
        cpus: Their registers.
    """

    arch: str
    byte_order: ByteOrder
    cpus: tuple[Cpu, ...]


def processors(states: Sequence[State]) -> Processors | None:
    """The CPUs whose states these are, in their order; None where their architecture is not known."""
    if not states:
        return None
    first = states[0]
    for field, one in _ARCHES.items():
        if field in first.fields and (known := one(first)) is not None:
            arch, byte_order, registers = known
            unset = dict.fromkeys(UNSET.get(arch, "").split(), 0)
            return Processors(
                arch, byte_order, tuple(Cpu(i, {**unset, **registers(state)}) for i, state in enumerate(states))
            )
    return None


_Registers = Callable[[State], Mapping[str, int]]


def _x86(first: State) -> tuple[str, ByteOrder, _Registers]:
    """What QEMU dumps all CPUs as, its first one decides: i386 while that is not in long mode."""
    if first.size("env.regs") == 8 and first.number("env.hflags") & HF_LMA:
        return "x86_64", "little", _x86_64
    return "i386", "little", _i386


def _x86_64(state: State) -> dict[str, int]:
    names = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split()
    values = dict(zip(names, state.numbers("env.regs"), strict=False))
    return values | {"rip": state.number("env.eip"), "rflags": state.number("env.eflags")} | _x86_system(state)


def _i386(state: State) -> dict[str, int]:
    general = state.numbers("env.regs")
    values = dict(zip("eax ecx edx ebx esp ebp esi edi".split(), (n & 0xFFFFFFFF for n in general), strict=False))
    values |= {f"r{8 + i}": value for i, value in enumerate(general[8:])}
    values |= {"eip": state.number("env.eip") & 0xFFFFFFFF, "eflags": state.number("env.eflags") & 0xFFFFFFFF}
    short = {*(f"{name}_base" for name in _SEGMENTS), *(f"cr{i}" for i in range(5))}
    system = _x86_system(state)
    return values | {name: n & 0xFFFFFFFF if name in short else n for name, n in system.items()}


_SEGMENTS: Final = ("es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr", "gdt", "idt")


def _x86_system(state: State) -> dict[str, int]:
    segments = state.structs("env.segs")
    for name in ("env.ldt", "env.tr", "env.gdt", "env.idt"):
        segments += state.structs(name)
    values = {f"cr{i}": state.number(f"env.cr[{i}]") for i in range(5)}
    for name, segment in zip(_SEGMENTS, segments, strict=False):
        values[name] = segment.number("selector") & 0xFFFF
        values |= {f"{name}_{part}": segment.number(part) for part in ("base", "limit", "flags")}
    return values | {"kernel_gs_base": state.number("env.kernelgsbase")}


def _arm_family(first: State) -> tuple[str, ByteOrder, _Registers]:
    """A CPU is aarch64 if it runs 64-bit code now, or has a stack pointer of 64-bit code to go back to.

    Its system registers do not show it: QEMU keeps those of a 32-bit CPU by the numbers of 64-bit ones as well.
    """
    system = _arm_system(first)
    wide = not first.number("cpsr") & PSTATE_NRW or any(first.numbers("env.sp_el"))
    control = system.get(SCTLR_EL1, 0) if wide else system.get(SCTLR_ARM, system.get(SCTLR_EL1, 0))
    order: ByteOrder = "big" if control & SCTLR_EE else "little"
    return ("aarch64", order, _aarch64) if wide else ("arm", order, _arm)


def _arm_system(state: State) -> dict[int, int]:
    return dict(zip(state.numbers("cpreg_vmstate_indexes"), state.numbers("cpreg_vmstate_values"), strict=False))


def _aarch64(state: State) -> dict[str, int]:
    pstate = state.number("cpsr")
    general = state.numbers("env.xregs")
    pc = state.number("env.pc")
    if pstate & PSTATE_NRW:  # a program of 32 bits: QEMU puts its registers where they are seen from 64 bits
        narrow = state.numbers("env.regs")
        general, pc = narrow[:15] + general[15:], narrow[15] if len(narrow) > 15 else pc
    values = {f"x{i}": value for i, value in enumerate(general[:31])}
    values |= {"sp": general[31] if len(general) > 31 else 0, "pc": pc, "pstate": pstate}
    vfp = state.part("cpu/vfp")
    if vfp.fields:
        values |= {f"v{i}": _lanes(vfp.numbers(f"env.vfp.zregs[{i}].d")) for i in range(32)}
        values["fpsr"], values["fpcr"] = _fp_status(vfp)
    sve = state.part("cpu/sve")
    if sve.fields:
        values |= _sve(sve, vfp, _vector_length(_arm_system(state), pstate >> 2 & 3))
    return values


def _fp_status(vfp: State) -> tuple[int, int]:
    apart = vfp.part("cpu/vfp/fpcr_fpsr")
    if apart.fields:
        return apart.number("fpsr") & 0xFFFFFFFF, apart.number("fpcr") & 0xFFFFFFFF
    both = vfp.number("fpscr")
    return both & FPSR_MASK, both & FPCR_MASK


def _vector_length(system: Mapping[int, int], level: int) -> int:
    """Bytes of an SVE vector at an exception level. Source: sve_vqm1_for_el in target/arm/helper.c."""
    # A CPU without one of the higher levels has its register all the same, as 0.
    lengths = [system.get(zcr, 0) & 0xF for at, zcr in ZCR.items() if level == at or (level < at and system.get(zcr))]
    return 16 * (1 + min(lengths, default=0))


def _sve(sve: State, vfp: State, length: int) -> dict[str, int]:
    """The vectors. The stream does not say how long they can be on this CPU: as long as the architecture allows."""
    values = {"sve_vl": length, "sve_max_vl": 16 * MAX_VQ}
    for i, high in enumerate(sve.structs("env.vfp.zregs")):
        lanes = vfp.numbers(f"env.vfp.zregs[{i}].d") + high.numbers("d")
        values[f"z{i}"] = _lanes(lanes) & (1 << 8 * length) - 1
    for i, predicate in enumerate(sve.structs("env.vfp.pregs")):
        values["ffr" if i == 16 else f"p{i}"] = _lanes(predicate.numbers("p")) & (1 << length) - 1
    return values


def _arm(state: State) -> dict[str, int]:
    names = [*(f"r{i}" for i in range(13)), "sp", "lr", "pc"]
    values = dict(zip(names, state.numbers("env.regs"), strict=False)) | {"cpsr": state.number("cpsr")}
    vfp = state.part("cpu/vfp")
    if not vfp.fields:
        return values | {"pr_fpvalid": 0}
    for i in range(32):
        pair = vfp.numbers(f"env.vfp.zregs[{i // 2}].d")
        values[f"d{i}"] = pair[i % 2] if len(pair) == 2 else 0
    fpsr, fpcr = _fp_status(vfp)
    return values | {"pr_fpvalid": 1, "fpscr": fpsr | fpcr}


def _s390x(first: State) -> tuple[str, ByteOrder, _Registers]:
    return "s390x", "big", _s390x_registers


def _s390x_registers(state: State) -> dict[str, int]:
    fpu, vectors = state.part("cpu/fpu"), state.part("cpu/vregs")
    values = {"psw_mask": state.number("env.psw.mask"), "psw_addr": state.number("env.psw.addr")}
    for name, field in (("r", "env.regs"), ("acr", "env.aregs"), ("cr", "env.cregs")):
        values |= {f"{name}{i}": value for i, value in enumerate(state.numbers(field))}
    for i in range(16):
        values[f"f{i}"] = fpu.number(f"env.vregs[{i}][0]")
        values[f"v{i}_low"] = vectors.number(f"env.vregs[{i}][1]")
        high = vectors.number(f"env.vregs[{16 + i}][0]")
        values[f"v{16 + i}"] = high << 64 | vectors.number(f"env.vregs[{16 + i}][1]")
    guarded = state.part("cpu/gscb").numbers("env.gscb") or [0] * 4
    values |= dict(zip("gs_reserved gsd gssm gsepla".split(), guarded, strict=False))
    return values | {
        "fpc": fpu.number("env.fpc"),
        "prefix": state.number("env.psa") & 0xFFFFFFFF,
        "timer": state.number("env.cputm"),
        "todcmp": state.number("env.ckc"),
        "todpreg": state.number("env.todpr"),
    }


def _ppc64(first: State) -> tuple[str, ByteOrder, _Registers] | None:
    if first.size("env.gpr") != 8:  # a 32-bit CPU, of which no dump is made
        return None
    special = first.numbers("env.spr")
    little = len(special) > SPR_LPCR and special[SPR_LPCR] & LPCR_ILE
    return "ppc64", "little" if little else "big", _ppc64_registers


def _ppc64_registers(state: State) -> dict[str, int]:
    special = [*state.numbers("env.spr"), *[0] * (SPR_LPCR + 1)]
    fpu, altivec, vsx = (state.part(f"cpu/{name}") for name in ("fpu", "altivec", "vsx"))
    condition = 0
    for field in state.numbers("env.crf"):
        condition = condition << 4 | field & 0xF
    values = {f"r{i}": value for i, value in enumerate(state.numbers("env.gpr"))}
    values |= {f"f{i}": value for i, value in enumerate(fpu.numbers("env.vsr"))}
    for i, value in enumerate(altivec.numbers("env.vsr")):
        # Two numbers in the order in which the source host keeps them: the low half first on a little-endian one.
        values[f"v{i}"] = value >> 64 | (value & (1 << 64) - 1) << 64
    values |= {f"vs{i}_low": value for i, value in enumerate(vsx.numbers("env.vsr"))}
    return values | {
        "nip": state.number("env.nip"),
        "msr": state.number("env.msr"),
        "ctr": special[SPR_CTR],
        "lr": special[SPR_LR],
        "xer": special[SPR_XER],
        "cr": condition,
        "fpscr": fpu.number("env.fpscr"),
        "vscr": altivec.number("vscr") & 0xFFFFFFFF,
        "spe_acc": state.number("env.spe_acc"),
    }


def _riscv(first: State) -> tuple[str, ByteOrder, _Registers]:
    return "riscv64" if first.size("env.gpr") == 8 else "riscv32", "little", _riscv_registers


def _riscv_registers(state: State) -> dict[str, int]:
    return dict(zip(RISCV, state.numbers("env.gpr")[1:], strict=False)) | {"pc": state.number("env.pc")}


def _lanes(values: Sequence[int]) -> int:
    """Lanes of 64 bits, the lowest first, as one number."""
    return sum(value << 64 * i for i, value in enumerate(values))


#: By a field that only this architecture's CPUs have.
_ARCHES: Final[dict[str, Callable[[State], tuple[str, ByteOrder, _Registers] | None]]] = {
    "env.segs": _x86,
    "env.xregs": _arm_family,
    "env.psw.mask": _s390x,
    "env.crf": _ppc64,
    "env.misa_ext": _riscv,
}
