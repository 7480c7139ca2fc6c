from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydump.interfaces.storage import Storage
from pydump.testing.storage import StorageTests
from pydump_storage_skeleton import SkeletonStorage


class TestSkeleton(StorageTests):
    storage: ClassVar[type[Storage]] = SkeletonStorage

    def example(self, tmp_path: Path) -> str:
        return f"skeleton:{tmp_path}/vmcore"

    def written(self, url: str) -> bytes | None:
        path = Path(url.removeprefix("skeleton:"))
        return path.read_bytes() if path.exists() else None
