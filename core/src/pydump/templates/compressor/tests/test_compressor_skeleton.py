from __future__ import annotations

from typing import ClassVar

from pydump.interfaces.compressor import Compressor
from pydump.testing.compressor import CompressorTests
from pydump_compressor_skeleton import SkeletonCompressor


class TestSkeleton(CompressorTests):
    compressor: ClassVar[type[Compressor]] = SkeletonCompressor
