from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydump.interfaces.sink import Sink
from pydump.testing.sink import SinkTests
from pydump_sink_skeleton import SkeletonSink


class TestSkeleton(SinkTests):
    sink: ClassVar[type[Sink]] = SkeletonSink

    def example(self, tmp_path: Path) -> str:
        return str(tmp_path / "vmcore")
