"""What the page tables of every architecture must do."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass
from typing import ClassVar

import pytest

from pydump.errors import PydumpError, ReadError
from pydump.interfaces.arch import AddressSpace, Arch, Mapping, ReadPhysical
from pydump.model.guest import Guest

#: Around a known address, the bytes whose pages are translated one by one and all at once.
BEFORE, AROUND = 0x5432, 0x20000
#: Ranges that are translated both ways, at most.
RANGES = 20


@dataclass(frozen=True, slots=True)
class PageTableExample:
    """Page tables of which some addresses are known, from another program or from the architecture's manual.

    Attributes:
        guest: What leads to them: VMCOREINFO, or notes with the register that names the top table, and where RAM is.
        read: Reads the memory that they lie in; :class:`~pydump.testing.ram.SparseRam` has one.
        translations: The paddr of virtual addresses, or None of one that is not mapped.
    """

    guest: Guest
    read: ReadPhysical
    translations: dict[int, int | None]


class PageTableTests:
    """The tests of an architecture that translates virtual addresses.

    Attributes:
        arch: The class under test.
    """

    arch: ClassVar[type[Arch]]

    def example(self) -> PageTableExample | None:
        """Page tables, and what is known of them. Without any, that addresses translate is not tested."""
        return None

    def known(self) -> PageTableExample:
        """The example."""
        found = self.example()
        if found is None:
            if self.arch.kernel_tables.__func__ is Arch.kernel_tables.__func__:  # type: ignore[attr-defined]
                pytest.skip("it has no kernel_tables")
            pytest.skip("nothing is known of its page tables: a subclass of ArchTests with example() tests them")
        assert any(paddr is not None for paddr in found.translations.values()), "the example has no mapped address"
        return found

    def space(self, known: PageTableExample) -> AddressSpace:
        """The address space of the example."""
        space = self.arch.address_space(self.arch.complete(known.guest), known.read)
        assert space is not None, "kernel_tables gives no tables, or _stext is not where their offset says"
        return space

    def test_known_addresses_translate(self) -> None:
        known = self.known()
        space = self.space(known)
        found = {vaddr: space.translate(vaddr) for vaddr in known.translations}
        wrong = [
            f"{vaddr:#x} is at {_hex(paddr)}, not {_hex(found[vaddr])}"
            for vaddr, paddr in known.translations.items()
            if found[vaddr] != paddr
        ]
        assert wrong == []

    def test_mappings_hold_the_known_addresses(self) -> None:
        known = self.known()
        mappings = list(self.space(known).mappings())
        for left, right in zip(mappings, mappings[1:], strict=False):
            assert left.vaddr + left.size <= right.vaddr, "mappings ascend without overlap"
            touch = (left.vaddr + left.size, left.paddr + left.size) == (right.vaddr, right.paddr)
            assert not touch, f"two mappings are one, which continues at {right.vaddr:#x}"
        for vaddr, paddr in known.translations.items():
            inside = [m.paddr + vaddr - m.vaddr for m in mappings if m.vaddr <= vaddr < m.vaddr + m.size]
            assert inside == ([] if paddr is None else [paddr]), f"{vaddr:#x}"

    def test_a_range_translates_as_its_pages_do(self) -> None:
        known = self.known()
        space = self.space(known)
        for vaddr in list(known.translations)[:: len(known.translations) // RANGES + 1]:
            start = max(0, vaddr - BEFORE)
            size = min(AROUND, (1 << 64) - start)
            found: list[Mapping] = list(space.runs(start, size))
            assert found == list(AddressSpace.runs(space, start, size)), f"{size:#x} bytes at {start:#x}"

    def test_memory_without_tables_is_none_or_an_error(self) -> None:
        known = self.known()
        for filler in (b"\0", b"\xff", b"\x5a"):
            self.survives(known, lambda paddr, size, filler=filler: filler * size)  # type: ignore[misc]
        self.survives(known, _unreadable)

    def test_damaged_tables_translate_to_something_or_nothing(self) -> None:
        known = self.known()
        for seed in range(16):

            def read(paddr: int, size: int, seed: int = seed) -> bytes:
                data, chance = bytearray(known.read(paddr, size)), random.Random(seed << 64 | paddr)
                for at in chance.sample(range(size), -(-size // 64)):
                    data[at] = chance.randrange(256)
                return bytes(data)

            self.survives(known, read)

    def survives(self, known: PageTableExample, read: ReadPhysical) -> None:
        """Addresses of the example translate with other memory, or that is refused with an error of pydump's."""
        space = None
        with contextlib.suppress(PydumpError):
            space = self.arch.address_space(self.arch.complete(known.guest), read)
        for vaddr in list(known.translations)[:200] if space else ():
            with contextlib.suppress(PydumpError):
                paddr = space.translate(vaddr) if space else None
                assert paddr is None or paddr >= 0


def _hex(paddr: int | None) -> str:
    return "nowhere" if paddr is None else f"{paddr:#x}"


def _unreadable(paddr: int, size: int) -> bytes:
    raise ReadError(paddr, size, "the memory was not saved")
