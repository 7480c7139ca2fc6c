"""Files and descriptors keep what every sink promises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from pydump.builtin.sinks import DescriptorSink, FileSink
from pydump.interfaces.sink import Sink
from pydump.testing.sink import SinkTests


class TestFile(SinkTests):
    sink: ClassVar[type[Sink]] = FileSink

    def example(self, tmp_path: Path) -> str:
        return str(tmp_path / "vmcore")


class TestDescriptor(SinkTests):
    sink: ClassVar[type[Sink]] = DescriptorSink
    whole: ClassVar[bool] = False

    @pytest.fixture(autouse=True)
    def descriptor(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        """A descriptor that stays open when the sink is done with it: who passed it closes it."""
        with (tmp_path_factory.mktemp("out") / "vmcore").open("wb") as self.file:
            yield

    def example(self, tmp_path: Path) -> str:
        return str(self.file.fileno())

    def written(self, argument: str) -> bytes:
        return Path(self.file.name).read_bytes()
