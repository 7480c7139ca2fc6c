"""What holds for every installed architecture."""

from __future__ import annotations

from pathlib import Path

import pytest

import pydump
from pydump.errors import PlanError, PydumpError
from pydump.interfaces.arch import Arch
from pydump.layout.registers import odd_notes
from pydump.model.guest import ByteOrder, Cpu, Guest
from pydump.model.memory import MemoryMap
from pydump.model.note import Note
from pydump.model.plan import Compat
from pydump.model.vmcoreinfo import Vmcoreinfo
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
    settled = arch.complete(Guest(MemoryMap.of([(0, 1 << 20)])))
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
    assert arch.quirks.corrected(right, byte_order) == right
    assert arch.quirks.corrected(qemus, byte_order) == right


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
    guest = arch.complete(Guest(MemoryMap.of([(0, 1 << 20)]), notes=notes))
    assert guest.n_cpus == 2
    assert arch.complete(guest) == guest


@every_arch
def test_no_notes_at_all(arch: type[Arch]) -> None:
    assert arch.cpu_notes([], arch.byte_order) == ()
    assert arch.cpus([], arch.byte_order) == ()
    assert not arch.owns(Guest(MemoryMap()))


@every_arch
@pytest.mark.parametrize("byte_order", ORDERS)
@pytest.mark.parametrize("size", [0, 1, 31, 34, 36, 100, 143])
def test_a_short_note_costs_its_own_registers_alone(arch: type[Arch], byte_order: ByteOrder, size: int) -> None:
    """The second CPU's notes are cut, as a damaged or foreign file has them."""
    whole = arch.cpu_notes([Cpu(i, numbered_registers(arch)) for i in range(3)], byte_order)
    seen: dict[tuple[str, int], int] = {}
    notes = []
    for note in whole:
        nth = seen[note.name, note.type] = seen.get((note.name, note.type), 0) + 1
        notes.append(Note(note.name, note.type, note.desc[:size]) if nth == 2 else note)
    guest = Guest(MemoryMap.of([(0, 1 << 20)]), byte_order=byte_order, notes=tuple(notes), vmcoreinfo=Vmcoreinfo(b""))
    settled = arch.complete(guest)
    assert [len(note.desc) for note in settled.notes] == [len(note.desc) for note in notes]
    assert settled.n_cpus == 3
    cpus = arch.cpus(notes, byte_order)
    assert [cpu.index for cpu in cpus] == [0, 1, 2]
    whole_kinds = [kind for kind in arch.note_kinds if all(kind.fits(note) for note in notes if kind.matches(note))]
    assert arch.note_kinds[0] not in whole_kinds
    assert set(cpus[1].registers) <= {field.register for kind in whole_kinds for field in kind.fields}
    assert len(list(odd_notes(arch.note_kinds, notes))) >= 1
    arch.address_space(settled, lambda paddr, n: bytes(n))
    arch.quirks.stated(settled)


#: What VMCOREINFO may hold for a number, and no kernel wrote.
ODD_NUMBERS = (
    "x",
    "",
    "0x",
    "-",
    "1e9",
    "9" * 5000,
    "0x" + "f" * 5000,
    "-0x1",
    "18446744073709551616",
    "٣",
    "1_0",
    "--1",
)


@every_arch
@pytest.mark.parametrize("value", ODD_NUMBERS)
def test_an_odd_number_in_vmcoreinfo_is_no_number(arch: type[Arch], value: str) -> None:
    """Whatever key it stands behind, nothing fails and no fact comes out that does not fit its place."""
    numbers = (
        "phys_base VA_BITS VA_BITS_ACTUAL TCR_EL1_T1SZ MAX_PHYSMEM_BITS kimage_voffset PHYS_OFFSET PAGE_OFFSET "
        "phys_ram_base KERNEL_LINK_ADDR va_kernel_pa_offset pgtable_l5_enabled sme_mask"
    )
    symbols = "swapper_pg_dir init_top_pgt init_level4_pgt _stext init_uts_ns"
    good = "OSRELEASE=6.1\nPAGESIZE=4096\n"
    keys = [f"NUMBER({name})" for name in numbers.split()] + [f"SYMBOL({name})" for name in symbols.split()]
    keys += ["KERNELOFFSET", "KERNELOFFPHYS", "PAGESIZE", "OFFSET(uts_namespace.name)"]
    defaults = {
        "NUMBER(VA_BITS)": "39",
        "NUMBER(kimage_voffset)": "0x0",
        "NUMBER(KERNEL_LINK_ADDR)": "0xffffffff80000000",
    }
    defaults |= {f"SYMBOL({name})": "ffffffff80001000" for name in symbols.split()}
    for odd in (*keys, None):
        lines = [f"{key}={value if odd in (key, None) else defaults.get(key, '0')}" for key in keys]
        text = (good + "\n".join(lines)).encode()
        guest = Guest(MemoryMap.of([(0x200000, 1 << 20)]), byte_order=arch.byte_order, vmcoreinfo=Vmcoreinfo(text))
        settled = arch.complete(guest)
        assert settled.page_size in arch.page_sizes
        assert -(1 << 63) <= (settled.phys_base or 0) < 1 << 64
        assert -(1 << 63) <= (arch.quirks.stated(settled).phys_base or 0) < 1 << 64
        for mapping in arch.load_aliases(settled):
            assert mapping.paddr >= 0 and mapping.size > 0 and mapping.vaddr + mapping.size <= 1 << 64
        assert 0 <= (arch.load_vaddr(settled, 0x200000) or 0) < 1 << 64
        arch.address_space(settled, lambda paddr, n: bytes(n))


@every_arch
@pytest.mark.parametrize("form", ["elf", "kdump"])
@pytest.mark.parametrize("compat", [None, "qemu"])
def test_a_dump_with_odd_vmcoreinfo_is_written_and_read(
    arch: type[Arch], form: str, compat: Compat | None, tmp_path: Path
) -> None:
    """Values that no kernel wrote: of 64 bits and more, negative, no numbers, of 60,000 characters."""
    names = "NUMBER(phys_base) NUMBER(PHYS_OFFSET) NUMBER(phys_ram_base) NUMBER(PAGE_OFFSET) NUMBER(KERNEL_LINK_ADDR)"
    for i, value in enumerate(("x", "0xffffffffffffffff", "-9223372036854775808", "9" * 400, "\x1b[31m")):
        lines = [
            f"OSRELEASE={value * 8}",
            *(f"{name}={value}" for name in (*names.split(), "NUMBER(va_kernel_pa_offset)")),
        ]
        text = Vmcoreinfo("\n".join(lines).encode())
        guest = Guest(MemoryMap(()), arch=arch.name, byte_order=arch.byte_order, vmcoreinfo=text)
        source = pydump.BytesImage(guest, {0x200000: bytes(65536)})
        out = tmp_path / str(i)
        try:
            pydump.dump(source, out, format=form, compression="none", compat=compat, workers=1, sync=False)
        except PydumpError:
            continue
        with pydump.open(out, arch=arch.name if compat is None else None) as back:
            assert back.read(0x200000, 16) == bytes(16)
