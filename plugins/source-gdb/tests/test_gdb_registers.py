"""Registers of target descriptions, as pydump's notes name them."""

from __future__ import annotations

import pytest

from pydump_source_gdb.registers import KNOWN, byte_order_of, descriptors, pydump_registers


def raw(values: dict[str, int], byte_order: str, size: int = 8) -> dict[str, bytes]:
    return {name: value.to_bytes(size, byte_order) for name, value in values.items()}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("msr", "byte_order"),
    [
        # What kernels run with: SF EE ME IR DR RI, and LE.
        (0x8000000000009032, "big"),
        (0x8000000000001033, "little"),
        (0x8000000002803033, "little"),
        (0x8000000000001000, "big"),
        (0, "big"),
    ],
)
def test_the_machine_state_register_says_the_byte_order(msr: int, byte_order: str) -> None:
    names = KNOWN["powerpc:common64"]
    assert byte_order_of(names, raw({"msr": msr}, byte_order)) == byte_order


def test_a_cpu_that_is_not_in_long_mode_is_an_i386() -> None:
    names = KNOWN["i386:x86-64"]
    values = {
        "rax": 0xFFFFFFFF80000000,
        "r8": 1 << 40,
        "rip": 0xFFF0,
        "eflags": 2,
        "cr3": 1 << 33,
        "k_gs_base": 1 << 60,
    }
    arch, registers = pydump_registers(names, raw(values | {"efer": 0x1}, "little"), "little")
    assert arch == "i386"
    assert registers["eax"] == 0x80000000 and registers["r8"] == 1 << 40
    assert (registers["eip"], registers["eflags"], registers["orig_eax"]) == (0xFFF0, 2, 0)
    assert registers["cr3"] == 0 and registers["kernel_gs_base"] == 1 << 60
    arch, registers = pydump_registers(names, raw(values | {"efer": 0xD01}, "little"), "little")
    assert arch == "x86_64"
    assert registers["rax"] == 0xFFFFFFFF80000000 and registers["rflags"] == 2 and registers["cr3"] == 1 << 33


def test_vectors_end_with_the_vector_length_in_use() -> None:
    names = KNOWN["aarch64"]
    values = {f"z{i}": (1 << 512) - 1 for i in range(32)} | {"ffr": (1 << 64) - 1}
    given = raw(values, "little", 64) | raw({"vg": 4}, "little")
    arch, registers = pydump_registers(names, given, "little")
    assert arch == "aarch64"
    assert registers["v31"] == (1 << 128) - 1 and registers["z31"] == (1 << 256) - 1
    assert registers["ffr"] == (1 << 32) - 1
    assert (registers["sve_vl"], registers["sve_max_vl"]) == (32, 64)
    # Without SVE in use there are no such registers.
    arch, registers = pydump_registers(names, raw(values, "little", 64) | raw({"vg": 0}, "little"), "little")
    assert "z0" not in registers and "ffr" not in registers and "sve_vl" not in registers


#: What QEMU 7.2 prints, in part.
INFO_REGISTERS = """
CPU#0
EAX=00000000 EBX=00000000 ECX=00000000 EDX=00000663
ES =0000 00000000 0000ffff 00009300
CS =f000 ffff0000 0000ffff 00009b00
LDT=0000 00000000 0000ffff 00008200
TR =0040 fffffe0000003000 00004087 00008b00 DPL=0 TSS64-busy
GDT=     fffffe0000001000 0000007f
IDT=     00000000 0000ffff
CR0=60000010 CR2=00000000 CR3=00000000 CR4=00000000
"""


def test_what_the_monitor_says_of_descriptors() -> None:
    (registers,) = descriptors(INFO_REGISTERS, 1)
    assert (registers["cs"], registers["cs_base"], registers["cs_limit"], registers["cs_flags"]) == (
        0xF000,
        0xFFFF0000,
        0xFFFF,
        0x9B00,
    )
    assert (registers["tr"], registers["tr_base"]) == (0x40, 0xFFFFFE0000003000)
    assert (registers["gdt_base"], registers["gdt_limit"], registers["idt_limit"]) == (0xFFFFFE0000001000, 0x7F, 0xFFFF)
    assert descriptors("nothing of the kind", 2) == [{}, {}]
