"""Which architecture a CPU of a stream is. Its registers are checked against QEMU's own dumps, in test_samples.py."""

from __future__ import annotations

import pytest

from pydump_qemu_stream.registers import SCTLR_ARM, SCTLR_EE, SCTLR_EL1, processors
from pydump_qemu_stream.vmdesc import State

#: Modes of a 32-bit CPU, and the two of a 64-bit one. Source: ARM Architecture Reference Manual, CPSR.M and PSTATE.M.
USER32, KERNEL32, USER64, KERNEL64 = 0x10, 0x13, 0x0, 0x5


def arm_cpu(cpsr: int, stack: int, system: dict[int, int]) -> State:
    """The state of a CPU of the ARM family, as the machine.c of QEMU 7.2 names its fields."""
    fields: dict[str, list[bytes | State]] = {
        "cpsr": [cpsr.to_bytes(4, "big")],
        "env.regs": [n.to_bytes(4, "big") for n in range(16)],
        "env.xregs": [n.to_bytes(8, "big") for n in range(32)],
        "env.sp_el": [n.to_bytes(8, "big") for n in (0, stack, 0, 0)],
        "cpreg_vmstate_indexes": [n.to_bytes(8, "big") for n in system],
        "cpreg_vmstate_values": [n.to_bytes(8, "big") for n in system.values()],
    }
    return State(fields)


@pytest.mark.parametrize(
    ("cpsr", "stack", "arch"),
    [
        (KERNEL32, 0, "arm"),
        (USER32, 0, "arm"),
        (USER32, 0xFFFF800008000000, "aarch64"),
        (USER64, 0xFFFF800008000000, "aarch64"),
        (KERNEL64, 0, "aarch64"),
    ],
)
@pytest.mark.parametrize("control", [0, SCTLR_EE])
def test_an_arm_cpu_is_what_its_kernel_is(cpsr: int, stack: int, arch: str, control: int) -> None:
    """A 32-bit CPU of QEMU's has 64-bit system registers too; ``max`` has no other ones."""
    for system in ({SCTLR_EL1: control}, {SCTLR_EL1: control, SCTLR_ARM: control}):
        found = processors([arm_cpu(cpsr, stack, system)])
        assert found
        assert (found.arch, found.byte_order) == (arch, "big" if control else "little")


def test_a_32_bit_powerpc_is_not_taken_for_a_64_bit_one() -> None:
    gpr: list[bytes | State] = [bytes(4)] * 32
    assert processors([State({"env.crf": [bytes(4)] * 8, "env.gpr": gpr, "env.spr": []})]) is None
