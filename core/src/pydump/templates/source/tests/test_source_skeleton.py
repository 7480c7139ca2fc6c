from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydump.interfaces.source import Source
from pydump.testing import guests
from pydump.testing.source import SourceTests
from pydump_source_skeleton import SkeletonSource


class TestSkeleton(SourceTests):
    source: ClassVar[type[Source]] = SkeletonSource

    def example(self, tmp_path: Path) -> tuple[str, dict[int, bytes]]:
        (tmp_path / "ram").write_bytes(guests.memory(40))
        return str(tmp_path / "ram"), {0: bytes(guests.memory(40))}
