"""What holds for every installed architecture."""

from __future__ import annotations

import pytest

from pydump.errors import PlanError
from pydump.interfaces.arch import Arch
from pydump.model.guest import ByteOrder, Cpu, Guest
from pydump.model.memory import MemoryMap
from pydump.registry import installed

ARCHES = sorted(installed().arches(), key=lambda arch: arch.name)
ORDERS: tuple[ByteOrder, ...] = ("little", "big")

every_arch = pytest.mark.parametrize("arch", ARCHES, ids=[arch.name for arch in ARCHES])


def numbered_registers(arch: type[Arch]) -> dict[str, int]:
    """A different value in every register, as far as its width allows; the widest SVE vectors where there are some."""
    values = {
        r.name: (0x0123456789ABCDEF * (i + 1) + (i + 1 << r.bits - 8)) % (1 << r.bits)
        for i, r in enumerate(arch.registers)
    }
    return values | ({"sve_vl": 256, "sve_max_vl": 256} if "sve_vl" in values else {})


@every_arch
def test_facts(arch: type[Arch]) -> None:
    assert arch.name == arch.name.lower()
    assert all(alias == alias.lower() for alias in arch.aliases)
    assert arch.elf_class in (32, 64)
    assert all(size & (size - 1) == 0 for size in arch.page_sizes)
    assert arch.note_kinds[0].label == "PRSTATUS"
    taken = [name for other in ARCHES for name in (other.name, *other.aliases)]
    assert len(taken) == len(set(taken))
    settled = arch.settle(Guest(MemoryMap.of([(0, 1 << 20)])))
    machine = settled.utsname.machine
    assert installed().arch(machine).machine == arch.machine, "uname's name leads back to the architecture"


@every_arch
def test_tables(arch: type[Arch]) -> None:
    bits: dict[str, int] = {}
    for kind in arch.note_kinds:
        if kind.size is not None:
            taken = sorted(
                [(f.offset, f.offset + f.size) for f in kind.fields]
                + [(offset, offset + size) for offset, size, _ in kind.constants]
            )
            assert taken[-1][1] <= kind.size
            assert all(a[1] <= b[0] for a, b in zip(taken, taken[1:], strict=False)), f"{kind.label}: fields overlap"
        for field in kind.fields:
            assert field.bits <= 8 * field.size
            assert bits.setdefault(field.register, field.bits) == field.bits, field.register
    assert [r.name for r in arch.registers] == list(bits)
    assert all(r.name == r.name.lower() for r in arch.registers)


@every_arch
@pytest.mark.parametrize("byte_order", ORDERS)
def test_notes_and_registers_are_inverse(arch: type[Arch], byte_order: ByteOrder) -> None:
    cpus = (Cpu(0, numbered_registers(arch)), Cpu(1, {}), Cpu(2, numbered_registers(arch)))
    notes = arch.cpu_notes(cpus, byte_order)
    assert arch.count_cpus(notes) == 3
    for cpu, again in zip(cpus, arch.cpus(notes, byte_order), strict=True):
        assert cpu.index == again.index
        assert {**again.registers, **cpu.registers} == again.registers
    assert arch.cpu_notes(arch.cpus(notes, byte_order), byte_order) == notes
    for note in notes:
        kind = next(kind for kind in arch.note_kinds if kind.matches(note))
        assert kind.size in (None, len(note.desc))


@every_arch
@pytest.mark.parametrize("byte_order", ORDERS)
def test_qemus_mistakes_come_out(arch: type[Arch], byte_order: ByteOrder) -> None:
    cpus = [Cpu(i, {}) for i in range(3)]
    right = arch.cpu_notes(cpus, byte_order)
    qemus = arch.cpu_notes(cpus, byte_order, compat="qemu")
    assert arch.corrected_notes(right, byte_order) == right
    assert arch.corrected_notes(qemus, byte_order) == right


@every_arch
@pytest.mark.parametrize("byte_order", ORDERS)
def test_the_byte_order_is_the_one_asked_for(arch: type[Arch], byte_order: ByteOrder) -> None:
    note = arch.cpu_notes([Cpu(0x01020303, {})], byte_order)[0]
    assert (0x01020304).to_bytes(4, byte_order) in note.desc


@every_arch
def test_wrong_registers(arch: type[Arch]) -> None:
    register = arch.registers[1]
    with pytest.raises(PlanError, match="CPU 5: unknown register 'nonsense'; the registers are ") as caught:
        arch.cpu_notes([Cpu(5, {"nonsense": 1})], arch.byte_order)
    assert caught.value.hint is not None
    assert set(caught.value.hint.removeprefix("the registers are ").split()) == {r.name for r in arch.registers}
    with pytest.raises(PlanError, match=f"{register.name} has {register.bits} bits"):
        arch.cpu_notes([Cpu(0, {register.name: 1 << register.bits})], arch.byte_order)


@every_arch
def test_settling_twice_changes_nothing(arch: type[Arch]) -> None:
    notes = arch.cpu_notes([Cpu(0, {}), Cpu(1, {})], arch.byte_order)
    guest = arch.settle(Guest(MemoryMap.of([(0, 1 << 20)]), notes=notes))
    assert guest.n_cpus == 2
    assert arch.settle(guest) == guest


@every_arch
def test_no_notes_at_all(arch: type[Arch]) -> None:
    assert arch.cpu_notes([], arch.byte_order) == ()
    assert arch.cpus([], arch.byte_order) == ()
    assert not arch.owns(Guest(MemoryMap()))
