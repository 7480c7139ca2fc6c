"""What every source must do.

A plugin's tests subclass :class:`SourceTests` and say what the source is opened with, and what it must hold::

    class TestChunks(SourceTests):
        source = ChunksImage

        def example(self, tmp_path):
            ...
            return argument, {0x1000: b"..."}

Without an example only what the class itself promises is tested.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from pydump.errors import PlanError, PydumpError
from pydump.interfaces.image import KnowsHoles, MemoryImage
from pydump.interfaces.live import LiveGuest
from pydump.interfaces.source import Source
from pydump.model.memory import Ranges
from pydump.options import with_values
from pydump.testing.declared import faults_of_claims, faults_of_options
from pydump.testing.forks import faults_in_forks
from pydump.testing.fresh import native_modules
from pydump.testing.reopen import faults_of_reopening


class SourceTests:
    """The tests.

    Attributes:
        source: The class under test.
        options: Values for its options, where they are not the defaults.
    """

    source: ClassVar[type[Source]]
    options: ClassVar[dict[str, Any]] = {}

    def example(self, tmp_path: Path) -> tuple[str, dict[int, bytes]] | None:
        """What to open, and the memory that must be there: paddr to bytes. None where there is no example."""
        return None

    def opened(self, tmp_path: Path) -> tuple[MemoryImage, dict[int, bytes]]:
        """The example, open."""
        example = self.example(tmp_path)
        if example is None:
            pytest.skip("it has no example: a subclass of SourceTests with example() tests more")
        argument, memory = example
        cls = self.source
        opened = cls.open(argument, with_values(cls.name, cls.Options(), self.options))
        if isinstance(opened, LiveGuest):
            opened.close()
            pytest.fail("the example is a live guest: capture one in a test of your own")
        return opened, memory

    # --- what it is ---

    def test_it_says_what_it_is(self) -> None:
        name = self.source.name
        assert name.isidentifier() and name.islower(), (
            f"{name!r} is not a valid name: use lower-case letters, digits and _"
        )
        assert faults_of_options(self.source) == []
        assert faults_of_claims("source", self.source) == []

    def test_importing_it_loads_nothing_native(self) -> None:
        assert native_modules(self.source) == []

    @pytest.mark.parametrize(
        "argument", ["", "/nowhere/at all", "\n", "x" * 5000, "@", "@@@,,,", "0", "-", "a\0b", "\udc80"]
    )
    def test_open_rejects_an_invalid_argument(self, argument: str) -> None:
        with pytest.raises(PydumpError) as caught:
            self.source.open(argument).close()
        said = str(caught.value)
        assert said.strip(), "the error says nothing"
        # What the user wrote may be repeated as it is.
        assert len(said.replace(argument or " ", " ").splitlines()) == 1, f"the error is not one line: {said!r}"

    def test_open_says_how_to_write_a_name_that_is_missing(self) -> None:
        with pytest.raises(PlanError) as caught:
            self.source.open("").close()
        assert f"{self.source.name}:" in (caught.value.hint or ""), "the hint does not show the right form"

    # --- memory ---

    def test_memory_is_that_of_the_example(self, tmp_path: Path) -> None:
        source, memory = self.opened(tmp_path)
        with source:
            ram = source.guest().memory.ranges()
            assert Ranges.of((at, at + len(data)) for at, data in memory.items()).subtract(ram).size == 0
            for at, data in memory.items():
                for start, size in ((0, len(data)), (1, len(data) // 2), (len(data) - 1, 1)):
                    buffer = bytearray(b"\xaa" * size)
                    source.read_into(at + start, memoryview(buffer))
                    same = buffer == data[start : start + size]
                    assert same, f"{size} bytes at {at + start:#x} are not those of the example"

    def test_all_of_its_ram_can_be_read(self, tmp_path: Path) -> None:
        source, _ = self.opened(tmp_path)
        with source:
            absent = source.excluded().union(source.unreadable())
            ram = source.guest().memory.ranges()
            for start, end in ram.subtract(absent):
                for at in (start, (start + end) // 2, end - 1):
                    source.read_into(at, memoryview(bytearray(1)))
            for start, end in ram.intersect(absent):
                buffer = bytearray(b"\xaa" * min(end - start, 1 << 16))
                source.read_into(start, memoryview(buffer))
                assert not any(buffer), f"what is left out or unreadable at {start:#x} reads as zeros"

    def test_forked_processes_read_at_once(self, tmp_path: Path) -> None:
        """Where they shared a file position, each would get what another asked for."""
        source, memory = self.opened(tmp_path)
        source.close()
        assert faults_in_forks(lambda: self.opened(tmp_path)[0], memory) == []

    def test_another_process_reads_the_same(self, tmp_path: Path) -> None:
        source, _ = self.opened(tmp_path)
        with source:
            if source.reopen() is None:
                pytest.skip("no other process can open it: it has no recipe")
            assert faults_of_reopening(source) == []

    def test_reading_beyond_ram_is_an_error(self, tmp_path: Path) -> None:
        source, _ = self.opened(tmp_path)
        with source, pytest.raises(PydumpError):
            source.read_into(source.guest().memory.end, memoryview(bytearray(1)))

    def test_holes_read_as_zeros(self, tmp_path: Path) -> None:
        source, _ = self.opened(tmp_path)
        with source:
            if not isinstance(source, KnowsHoles):
                pytest.skip("it does not say where its holes are")
            for block in source.guest().memory:
                for paddr, size in ((block.paddr, block.size), (block.paddr + 1, block.size // 2), (block.end - 1, 1)):
                    at, inside = paddr, True
                    data = list(source.data_ranges(paddr, size))
                    for start, end in data:
                        inside = inside and at <= start < end <= paddr + size
                        at = end
                    assert inside, f"data_ranges({paddr:#x}, {size:#x}) leaves the range or does not ascend: {data}"
                    for start, end in Ranges.of([(paddr, paddr + size)]).subtract(Ranges.of(data)):
                        buffer = bytearray(b"\xaa" * (end - start))
                        source.read_into(start, memoryview(buffer))
                        assert not any(buffer), f"there is something in the hole {start:#x}..{end:#x}"
