"""What every architecture must do.

A plugin's tests subclass :class:`ArchTests`::

    class TestLoongarch64(ArchTests):
        arch = Loongarch64Arch

and add what only they can know: that the notes are those QEMU writes, and where addresses of a real guest lie
(``example``, of which :class:`~pydump.testing.page_tables.PageTableTests` makes its tests).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pydump.errors import PlanError, PydumpError
from pydump.interfaces.arch import AddressSpace, Arch
from pydump.layout.notes import pack_notes
from pydump.layout.registers import PR_PID, Register
from pydump.model.guest import ByteOrder, Cpu, Guest
from pydump.model.memory import MemoryMap
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump.registry import installed
from pydump.testing.declared import faults_of_claims
from pydump.testing.fresh import native_modules
from pydump.testing.guests import random_page
from pydump.testing.page_tables import PageTableTests
from pydump.testing.readers import read_notes

#: Keys that kernels write for those who translate addresses.
KEYS = (
    "NUMBER(phys_base)", "KERNELOFFSET", "NUMBER(VA_BITS)", "NUMBER(PHYS_OFFSET)", "NUMBER(kimage_voffset)",
    "NUMBER(TCR_EL1_T1SZ)", "SYMBOL(swapper_pg_dir)", "SYMBOL(init_top_pgt)", "SYMBOL(_stext)", "NUMBER(PAGE_OFFSET)",
    "NUMBER(phys_ram_base)", "NUMBER(va_kernel_pa_offset)", "NUMBER(KERNEL_LINK_ADDR)", "NUMBER(pgtable_l5_enabled)",
)  # fmt: skip

#: What the values of registers differ by: odd, and read in the other byte order it is another number.
STEP = 0x0123_4567_89AB_CDEF

# The same test function runs for every subclass.
_shared = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow]
)


class ArchTests(PageTableTests):
    """The tests.

    Attributes:
        arch: The class under test.
    """

    def orders(self) -> tuple[ByteOrder, ...]:
        """The byte orders that its guests may have."""
        return ("little", "big") if self.arch.bi_endian else (self.arch.byte_order,)

    def guest(self, byte_order: ByteOrder, n_cpus: int = 2) -> Guest:
        """A guest of it, with registers that all differ."""
        notes = self.arch.cpu_notes(self.cpus(n_cpus), byte_order)
        return Guest(MemoryMap.of([(0, 1 << 24)]), byte_order=byte_order, elf_class=self.arch.elf_class, notes=notes)

    def cpus(self, n: int) -> tuple[Cpu, ...]:
        """CPUs whose every register has a value of its own, as far as its width lets it."""
        return tuple(
            Cpu(i, {r.name: (STEP * (k + 1) + i) % (1 << r.bits) or 1 for k, r in enumerate(self.plain())})
            for i in range(n)
        )

    def plain(self) -> list[Register]:
        """Its registers that lie in notes which every CPU has."""
        optional = {kind.label for kind in self.arch.note_kinds if kind.when is not None}
        switches = {kind.when for kind in self.arch.note_kinds}
        return [r for r in self.arch.registers if r.note not in optional and r.name not in switches]

    def others(self) -> list[type[Arch]]:
        """The architectures that are installed beside it."""
        return [other for other in installed().arches() if other.name != self.arch.name]

    # --- what it is ---

    def test_its_numbers_are_such(self) -> None:
        cls = self.arch
        assert cls.name.isidentifier() and cls.name.islower(), f"{cls.name!r} is not the name of an architecture"
        for alias in cls.aliases:
            assert alias == alias.lower(), f"alias {alias} is looked up in lower case, and never found"
            assert [cls.name, *cls.aliases].count(alias) == 1, f"alias {alias} is there twice"
        assert faults_of_claims("arch", cls) == []
        assert 0 < cls.machine < 1 << 16
        assert cls.elf_class in (32, 64)
        assert cls.byte_order in ("little", "big")
        assert cls.u64_align in (4, 8)
        assert cls.page_sizes
        for size in cls.page_sizes:
            assert size in (1 << n for n in range(12, 21)), f"no page has {size} bytes"
        for order in self.orders():
            machine = cls.uts_machine(order)
            plain = machine.isascii() and machine.isprintable() and " " not in machine and 0 < len(machine) <= 64
            assert plain, f"uname -m says a word of up to 64 letters, not {machine!r}"

    def test_no_other_has_its_numbers(self) -> None:
        """e_machine, class and byte order are how a file says whose it is."""
        cls = self.arch
        for other in self.others():
            same = (other.machine, other.elf_class, other.byte_order) == (cls.machine, cls.elf_class, cls.byte_order)
            assert not same, f"{other.name} has e_machine {cls.machine} too, with the same class and byte order"

    def test_importing_it_loads_nothing_native(self) -> None:
        assert native_modules(self.arch) == []

    def test_its_notes_are_tables_without_overlaps(self) -> None:
        kinds = self.arch.note_kinds
        assert repeated(kind.label for kind in kinds) == [], "two notes have one label"
        assert repeated((kind.name, kind.type) for kind in kinds) == [], "two notes have one name and type"
        for kind in kinds:
            assert repeated(f.register for f in kind.fields) == [], f"a register is twice in {kind.label}"
            if kind.size is None:
                continue  # where its registers lie depends on their values
            end, before = 0, "its beginning"
            for f in sorted(kind.fields, key=lambda f: f.offset):
                assert f.offset >= end, f"{f.register} overlaps {before} in {kind.label}"
                assert 0 < f.bits <= 8 * f.size, f"{f.register} of {kind.label} has {f.bits} bits in {f.size} bytes"
                end, before = f.offset + f.size, f.register
            assert end <= kind.size, f"{before} reaches beyond the {kind.size} bytes of {kind.label}"
        assert repeated(register.name for register in self.arch.registers) == [], "two registers have one name"
        assert {register.note for register in self.arch.registers} <= {kind.label for kind in kinds}

    # --- registers ---

    def test_registers_come_back(self) -> None:
        for order in self.orders():
            for n in (1, 3):
                cpus = self.cpus(n)
                back = self.arch.cpus(self.arch.cpu_notes(cpus, order), order)
                assert len(back) == n
                for cpu, found in zip(cpus, back, strict=True):
                    assert found.index == cpu.index
                    assert {name: found.registers[name] for name in cpu.registers} == cpu.registers

    def test_no_register_touches_another(self) -> None:
        order = self.arch.byte_order
        base = self.arch.cpus(self.arch.cpu_notes((Cpu(0, {}),), order), order)[0].registers
        for register in self.plain():
            name, bits = register.name, register.bits
            notes = self.arch.cpu_notes((Cpu(0, {name: (1 << bits) - 1}),), order)
            found = self.arch.cpus(notes, order)[0].registers
            changed = {other for other in base if found[other] != base[other]}
            assert changed <= {name}, name
            assert found[name] == (1 << bits) - 1

    def test_registers_lie_where_the_table_says(self) -> None:
        for order in self.orders():
            (cpu,) = self.cpus(1)
            notes = self.arch.cpu_notes((cpu,), order)
            for kind in (kind for kind in self.arch.note_kinds if kind.size is not None and kind.when is None):
                desc = next(note.desc for note in notes if kind.matches(note))
                for f in (f for f in kind.fields if f.register in cpu.registers):
                    held = int.from_bytes(desc[f.offset : f.offset + f.size], order)
                    assert held == cpu.registers[f.register], f.register

    def test_an_independent_reader_finds_the_notes(self) -> None:
        for order in self.orders():
            notes = self.arch.cpu_notes(self.cpus(2), order)
            found = read_notes(pack_notes(notes, order), order)
            assert found == [(note.name, note.type, note.desc) for note in notes]

    def test_names_and_values_that_are_wrong(self) -> None:
        order = self.arch.byte_order
        with pytest.raises(PlanError) as caught:
            self.arch.cpu_notes((Cpu(0, {"no_such_register": 1}),), order)
        assert "no_such_register" in caught.value.message
        assert {r.name for r in self.arch.registers} <= set((caught.value.hint or "").split()), "the right names"
        register = next(r for r in self.plain() if r.name != PR_PID)
        for value in (1 << register.bits, -1):
            with pytest.raises(PlanError):
                self.arch.cpu_notes((Cpu(0, {register.name: value}),), order)

    # --- guests ---

    def test_it_knows_its_own_notes(self) -> None:
        for order in self.orders():
            assert self.arch.owns(self.guest(order))
            assert self.arch.count_cpus(self.guest(order, 3).notes) == 3
        assert not self.arch.owns(Guest(MemoryMap.of([(0, 4096)]), byte_order=self.arch.byte_order))
        for other in self.others():
            notes = other.cpu_notes((Cpu(0, {}),), other.byte_order)
            guest = Guest(
                MemoryMap.of([(0, 4096)]), byte_order=other.byte_order, elf_class=other.elf_class, notes=notes
            )
            assert not self.arch.owns(guest), f"it claims the guests of {other.name}"

    def test_it_fills_in_every_fact(self) -> None:
        for order in self.orders():
            settled = self.arch.complete(self.guest(order))
            # Registers may say another byte order than was claimed, and that may have a name of its own.
            assert settled.machine == self.arch.machine
            assert settled.arch and settled.byte_order
            assert settled.page_size in self.arch.page_sizes
            assert settled.phys_base is not None
            assert settled.n_cpus == 2
            assert settled.utsname.machine
            assert self.arch.complete(settled) == settled
            as_qemu = self.arch.quirks.stated(settled)
            assert self.arch.count_cpus(as_qemu.notes) == 2, "QEMU writes the notes of every CPU"
            wrong = self.arch.cpu_notes(self.cpus(2), settled.byte_order, compat="qemu")
            assert len(as_qemu.notes) == len(wrong), "QEMU writes every note of a CPU"

    def test_it_believes_vmcoreinfo_about_the_page_size(self) -> None:
        for size in (*self.arch.page_sizes, 512):  # a size the architecture does not have is damage
            text = f"OSRELEASE=6.1\nPAGESIZE={size}\n".encode()
            guest = replace(self.guest(self.arch.byte_order), page_size=None, vmcoreinfo=Vmcoreinfo(text))
            wanted = size if size in self.arch.page_sizes else self.arch.page_sizes[0]
            assert self.arch.complete(guest).page_size == wanted

    # --- addresses ---

    @given(st.dictionaries(st.sampled_from(KEYS), st.integers(-(1 << 63), (1 << 64) - 1)), st.integers(0, 1 << 32))
    @_shared
    def test_nonsense_translates_to_nothing_or_something(self, facts: dict[str, int], seed: int) -> None:
        text = "OSRELEASE=6.1\nPAGESIZE=4096\n" + "".join(
            f"{key}={value:x}\n" if key.startswith(("SYMBOL", "KERNEL")) and value >= 0 else f"{key}={value}\n"
            for key, value in facts.items()
        )
        junk = random_page(seed)

        def read(paddr: int, size: int) -> bytes:
            return (junk * (size // 4096 + 2))[paddr % 4096 :][:size]

        guest = self.arch.complete(replace(self.guest(self.arch.byte_order), vmcoreinfo=Vmcoreinfo(text.encode())))
        try:
            space = self.arch.address_space(guest, read)
            assert space is None or isinstance(space, AddressSpace)
            for vaddr in (0, 0xFFFFFFFF81000000, 0xFFFF800008000000, 0xC000000000000000, (1 << 64) - 1):
                paddr = space.translate(vaddr) if space else None
                assert paddr is None or paddr >= 0
        except PydumpError:
            pass

    def test_little_is_known_and_no_error(self) -> None:
        guest = self.arch.complete(Guest(MemoryMap.of([(0, 4096)]), byte_order=self.arch.byte_order))
        assert self.arch.address_space(guest, lambda paddr, size: bytes(size)) is None
        assert self.arch.cpus((), self.arch.byte_order) == ()


def repeated(values: Iterable[object]) -> list[object]:
    """What is there more than once."""
    return [value for value, n in Counter(values).items() if n > 1]
