"""Snappy: each page one raw block.

Source: google/snappy, format_description.txt. A block begins with its uncompressed length as a varint.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any, ClassVar

from pydump.errors import CompressionError
from pydump.hookspecs import hookimpl
from pydump.interfaces.compressor import Compressor


class SnappyCompressor(Compressor):
    """Raw Snappy blocks, by python-snappy."""

    name: ClassVar[str] = "snappy"

    @property
    def producer(self) -> str:
        return f"python-snappy {version('python-snappy')}"

    @cached_property
    def _codec(self) -> Any:
        import snappy

        return snappy

    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        block: bytes = self._codec.compress(data)
        return block

    def compress_batch(self, data: memoryview, page_size: int, offsets: Sequence[int]) -> list[bytes]:
        compress = self._codec.compress
        return [compress(data[offset : offset + page_size]) for offset in offsets]

    def decompress(self, data: bytes | bytearray | memoryview, size: int) -> bytes:
        # What the block claims is what the library reserves.
        claimed = _length(data)
        if claimed != size:
            raise CompressionError(self.name, f"the page has {size} bytes, the block holds {claimed}")
        try:
            page: bytes = self._codec.uncompress(data)
        except self._codec.UncompressError as error:
            reason = str(error.__cause__ or error).removeprefix("snappy: ")
            raise CompressionError(self.name, reason) from None
        return page


def _length(block: bytes | bytearray | memoryview) -> int:
    """The uncompressed length that a block begins with: a varint of at most 5 bytes, 7 bits each, the lowest first."""
    length = 0
    for place, byte in enumerate(bytes(block[:5])):
        length |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return length
    raise CompressionError("snappy", "the block does not say its length")


@hookimpl
def pydump_register_compressors() -> Sequence[type[Compressor]]:
    """``--compression snappy``."""
    return [SnappyCompressor]
