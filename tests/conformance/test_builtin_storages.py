"""Files and descriptors keep what every storage promises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from pydump.builtin.storages import DescriptorStorage, FileStorage
from pydump.interfaces.storage import Storage
from pydump.testing.dummy import MemoryStorage
from pydump.testing.storage import StorageTests


class TestFile(StorageTests):
    storage: ClassVar[type[Storage]] = FileStorage

    def example(self, tmp_path: Path) -> str:
        return f"file:{tmp_path}/vmcore"

    def written(self, url: str) -> bytes | None:
        path = Path(url.removeprefix("file:"))
        return path.read_bytes() if path.exists() else None


class TestFileUrl(TestFile):
    def example(self, tmp_path: Path) -> str:
        return f"file://localhost{tmp_path}/vmcore"

    def written(self, url: str) -> bytes | None:
        return super().written(url.removeprefix("file://localhost"))


class TestDescriptor(StorageTests):
    storage: ClassVar[type[Storage]] = DescriptorStorage
    whole: ClassVar[bool] = False

    @pytest.fixture(autouse=True)
    def descriptor(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        """A descriptor that stays open when the storage is done with it: who passed it closes it."""
        with (tmp_path_factory.mktemp("out") / "vmcore").open("w+b") as self.file:
            yield

    def example(self, tmp_path: Path) -> str:
        return f"fd:{self.file.fileno()}"

    def written(self, url: str) -> bytes:
        return Path(self.file.name).read_bytes()


class TestDummy(StorageTests):
    storage: ClassVar[type[Storage]] = MemoryStorage

    @pytest.fixture(autouse=True)
    def empty(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(MemoryStorage, "kept", {})

    def example(self, tmp_path: Path) -> str:
        return "dummy://vmcore"
