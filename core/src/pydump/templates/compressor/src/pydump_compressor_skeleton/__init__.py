"""Skeleton compression: each page one stream of Python's zlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydump.errors import CompressionError
from pydump.hookspecs import hookimpl
from pydump.interfaces.compressor import Compressor
from pydump.options import option


@dataclass(frozen=True, slots=True)
class SkeletonOptions:
    """How hard to try."""

    level: int = option(1, help="1 is fastest, 9 smallest", low=1, high=9)


class SkeletonCompressor(Compressor):
    """Streams of zlib."""

    name: ClassVar[str] = "skeleton"
    Options: ClassVar[type] = SkeletonOptions
    options: SkeletonOptions

    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        import zlib  # a codec is loaded at first use, not with the plugin

        return zlib.compress(data, self.options.level)

    def decompress(self, data: bytes | bytearray | memoryview, size: int) -> bytes:
        import zlib

        stream = zlib.decompressobj()
        try:
            page = stream.decompress(data, size)  # never more than a page, whatever the stream claims
            excess = b"" if stream.eof else stream.decompress(stream.unconsumed_tail, 1)
        except zlib.error as error:
            raise CompressionError(self.name, str(error)) from None
        if excess or len(page) != size or not stream.eof or stream.unused_data:
            raise CompressionError(self.name, f"the stream of {len(data)} bytes is no page of {size}")
        return page


@hookimpl
def pydump_register_compressors() -> Sequence[type[Compressor]]:
    """``--compression skeleton``."""
    return [SkeletonCompressor]
