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


class TestParts(SourceTests):
    source: ClassVar[type[Source]] = RawSource

    def example(self, tmp_path: Path) -> tuple[str, dict[int, bytes]]:
        """Parts of one file, out of order, with bytes between them that are no RAM."""
        file = b"header" + bytes(guests.memory(9)) + b"between" + guests.random_page(1) + bytes(4096)
        (tmp_path / "file").write_bytes(file)
        size = 9 * 4096
        memory = {4 << 30: file[6 : 6 + size], 0x2000: file[size + 13 :]}
        return f"{tmp_path}/file[6:0x9000]@4G,{tmp_path}/file[{size + 13}:]@8K", memory
