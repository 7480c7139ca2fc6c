"""What every filter must do.

A plugin's tests subclass :class:`FilterTests` and give it a guest that the filter knows::

    class TestChunks(FilterTests):
        filter = ChunksFilter

        def example(self):
            return source, guest, arch

Without an example only what the class itself promises is tested.
"""

from __future__ import annotations

import random
import re
from typing import Any, ClassVar

import pytest

from pydump.errors import PydumpError
from pydump.interfaces.arch import Arch
from pydump.interfaces.filter import Classified, Filter
from pydump.interfaces.image import MemoryImage
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap
from pydump.options import with_values
from pydump.testing.declared import faults_of_claims, faults_of_options
from pydump.testing.fresh import native_modules

#: How often the example's memory is damaged, each time in another way.
TRIALS = 50


class _Damaged(MemoryImage):
    """A source some of whose bytes are others."""

    def __init__(self, source: MemoryImage, seed: int) -> None:
        self._source = source
        self._random = random.Random(seed)

    def guest(self) -> Guest:
        return self._source.guest()

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        self._source.read_into(paddr, buffer)
        for _ in range(len(buffer) // 512 + 1):
            if len(buffer) and self._random.random() < 0.3:
                buffer[self._random.randrange(len(buffer))] = self._random.randrange(256)


class FilterTests:
    """The tests.

    Attributes:
        filter: The class under test.
        options: Values for its options, where they are not the defaults.
    """

    filter: ClassVar[type[Filter]]
    options: ClassVar[dict[str, Any]] = {}

    def example(self) -> tuple[MemoryImage, Guest, type[Arch]] | None:
        """A guest that the filter knows: its memory, its completed facts, its architecture. None for no example."""
        return None

    def known(self) -> tuple[MemoryImage, Guest, type[Arch]]:
        """The example, which must be there."""
        example = self.example()
        if example is None:
            pytest.skip("it has no example: a subclass of FilterTests with example() tests more")
        return example

    def classify(self, source: MemoryImage, guest: Guest, arch: type[Arch]) -> Classified:
        """What the filter finds with its options."""
        options = with_values(self.filter.name, self.filter.Options(), self.options)
        return self.filter.classify(source, guest, arch, options)

    def test_it_says_what_it_is(self) -> None:
        assert re.fullmatch("[a-z][a-z0-9_]*", self.filter.name), "lower-case letters, digits and _ make a name"
        assert self.filter.classes, "it leaves nothing out"
        for name, text in self.filter.classes.items():
            assert re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", name), f"--exclude cannot take {name!r}"
            assert name != "zero", "zero pages are pydump's own class"
            assert text, f"it does not say what {name} pages are"
        assert faults_of_options(self.filter) == []
        assert faults_of_claims("filter", self.filter) == []

    def test_importing_it_loads_nothing_native(self) -> None:
        assert native_modules(self.filter) == []

    def test_any_guest_can_be_asked_about(self) -> None:
        for guest in (Guest(MemoryMap()), Guest(MemoryMap.of([(0, 1 << 20)]), byte_order="big", elf_class=32)):
            assert self.filter.knows(guest) in (True, False)

    def test_it_knows_the_example(self) -> None:
        _, guest, _ = self.known()
        assert self.filter.knows(guest)

    def test_classes_are_declared_and_lie_in_ram(self) -> None:
        source, guest, arch = self.known()
        found = self.classify(source, guest, arch)
        page = guest.page_size or 4096
        assert set(found.classes) <= set(self.filter.classes)
        assert found.always <= set(self.filter.classes)
        for name, ranges in found.classes.items():
            assert not ranges.subtract(guest.memory.ranges()), f"{name} pages lie outside RAM"
            assert not (ranges.array % page).any(), f"{name} pages are not whole pages"

    def test_nothing_that_must_stay_is_in_a_class(self) -> None:
        source, guest, arch = self.known()
        self._agrees(self.classify(source, guest, arch))

    def test_the_same_memory_gives_the_same_pages(self) -> None:
        source, guest, arch = self.known()
        assert self.classify(source, guest, arch) == self.classify(source, guest, arch)

    @pytest.mark.parametrize("seed", range(TRIALS))
    def test_damaged_memory_gives_pages_or_an_error(self, seed: int) -> None:
        source, guest, arch = self.known()
        try:
            found = self.classify(_Damaged(source, seed), guest, arch)
        except PydumpError:
            return
        self._agrees(found)

    def _agrees(self, found: Classified) -> None:
        """Where all checks pass, nothing that must stay is in a class."""
        for check in found.checks:
            assert check.name and check.detail
        if all(check.passed for check in found.checks):
            for name, ranges in found.classes.items():
                assert not ranges.intersect(found.keep), f"{name} pages contain what must stay"
