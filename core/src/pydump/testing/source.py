"""What every source must do.

A plugin's tests subclass :class:`SourceTests` and say what the source is opened with, and what it must hold::

    class TestChunks(SourceTests):
        source = ChunksSource

        def example(self, tmp_path):
            ...
            return argument, {0x1000: b"..."}

Without an example only what the class itself promises is tested.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pydump.errors import PydumpError
from pydump.interfaces.source import KnowsHoles, Source
from pydump.model.memory import Ranges
from pydump.options import option_fields, with_values
from pydump.testing.fresh import native_modules


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

    def opened(self, tmp_path: Path) -> tuple[Source, dict[int, bytes]]:
        """The example, open."""
        example = self.example(tmp_path)
        if example is None:
            pytest.skip("it has no example: a subclass of SourceTests with example() tests more")
        argument, memory = example
        cls = self.source
        return cls.open(argument, with_values(cls.name, cls.Options(), self.options)), memory

    # --- what it is ---

    def test_it_says_what_it_is(self) -> None:
        cls = self.source
        assert cls.name.isidentifier() and cls.name.islower()
        fields = option_fields(cls.Options)
        assert all(declared.help for declared in fields)
        defaults = {declared.name: declared.default for declared in fields}
        assert with_values("it", cls.Options(), defaults) == cls.Options()

    def test_importing_it_loads_nothing_native(self) -> None:
        assert native_modules(self.source) == []

    @pytest.mark.parametrize(
        "argument", ["", "/nowhere/at all", "\n", "x" * 5000, "@", "@@@,,,", "0", "-", "a\0b", "\udc80"]
    )
    def test_what_leads_nowhere_is_an_error_of_pydumps(self, argument: str) -> None:
        with pytest.raises(PydumpError) as caught:
            self.source.open(argument).close()
        assert str(caught.value).strip()

    # --- memory ---

    def test_its_memory_is_what_it_should_be(self, tmp_path: Path) -> None:
        source, memory = self.opened(tmp_path)
        with source:
            ram = source.guest().memory.ranges()
            assert Ranges.of((at, at + len(data)) for at, data in memory.items()).subtract(ram).size == 0
            for at, data in memory.items():
                for start, size in ((0, len(data)), (1, len(data) // 2), (len(data) - 1, 1)):
                    buffer = bytearray(b"\xaa" * size)
                    source.read_into(at + start, memoryview(buffer))
                    assert buffer == data[start : start + size]

    def test_forked_processes_read_at_once(self, tmp_path: Path) -> None:
        """Where they shared a file position, each would get what another asked for."""
        source, memory = self.opened(tmp_path)
        fork = multiprocessing.get_context("fork")
        with source:
            readers = [fork.Process(target=_read_all, args=(source, memory)) for _ in range(3)]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join(60)
            assert [reader.exitcode for reader in readers] == [0, 0, 0]

    def test_what_is_no_ram_is_an_error(self, tmp_path: Path) -> None:
        source, _ = self.opened(tmp_path)
        with source, pytest.raises(PydumpError):
            source.read_into(source.guest().memory.end, memoryview(bytearray(1)))

    def test_its_holes_are_zero(self, tmp_path: Path) -> None:
        source, _ = self.opened(tmp_path)
        with source:
            if not isinstance(source, KnowsHoles):
                pytest.skip("it does not say where its holes are")
            for block in source.guest().memory:
                data = Ranges.of(source.data_ranges(block.paddr, block.size))
                for start, end in Ranges.of([(block.paddr, block.end)]).subtract(data):
                    buffer = bytearray(end - start)
                    source.read_into(start, memoryview(buffer))
                    assert not any(buffer)


def _read_all(source: Source, memory: dict[int, bytes]) -> None:
    for _ in range(100):
        for paddr, data in memory.items():
            for at in range(0, len(data), 1 << 16):
                buffer = bytearray(min(1 << 16, len(data) - at))
                source.read_into(paddr + at, memoryview(buffer))
                assert buffer == data[at : at + (1 << 16)]
