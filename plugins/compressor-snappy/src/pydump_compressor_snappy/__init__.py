"""Snappy: each page one raw block.

Source: google/snappy, format_description.txt. A block begins with its uncompressed length as a varint.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from types import ModuleType
from typing import Any, ClassVar

from pydump.errors import CompressionError
from pydump.hookspecs import hookimpl
from pydump.interfaces.compressor import Compressor


class SnappyCompressor(Compressor):
    """Raw Snappy blocks, by cramjam."""

    name: ClassVar[str] = "snappy"

    @property
    def producer(self) -> str:
        return f"cramjam {version('cramjam')}"

    @cached_property
    def _cramjam(self) -> ModuleType:
        import cramjam

        return cramjam

    @cached_property
    def _codec(self) -> Any:
        return self._cramjam.snappy

    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        return bytes(self._codec.compress_raw(data))

    def compress_batch(self, data: memoryview, page_size: int, offsets: Sequence[int]) -> list[bytes]:
        compress = self._codec.compress_raw
        return [bytes(compress(data[offset : offset + page_size])) for offset in offsets]

    def decompress(self, data: bytes | bytearray | memoryview, size: int) -> bytes:
        try:
            # What the block claims is what the library reserves.
            claimed = self._codec.decompress_raw_len(data)
            if claimed != size:
                raise CompressionError(self.name, f"the page has {size} bytes, the block holds {claimed}")
            return bytes(self._codec.decompress_raw(data))
        except self._cramjam.DecompressionError as error:
            raise CompressionError(self.name, str(error).removeprefix("snappy: ")) from None


@hookimpl
def pydump_register_compressors() -> Sequence[type[Compressor]]:
    """``--compression snappy``."""
    return [SnappyCompressor]
