"""Files of bare RAM keep what every source promises."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydump.builtin.raw import RawSource
from pydump.interfaces.source import Source
from pydump.testing import guests
from pydump.testing.source import SourceTests


class TestRaw(SourceTests):
    source: ClassVar[type[Source]] = RawSource

    def example(self, tmp_path: Path) -> tuple[str, dict[int, bytes]]:
        """Two blocks that touch, and one far away that ends within a page."""
        memory = {0: bytes(guests.memory(9)), 0x9000: guests.random_page(1), 1 << 32: bytes(guests.memory(60)[:-5])}
        for paddr, data in memory.items():
            (tmp_path / str(paddr)).write_bytes(data)
        return ",".join(f"{tmp_path}/{paddr}@{paddr:#x}" for paddr in memory), memory
