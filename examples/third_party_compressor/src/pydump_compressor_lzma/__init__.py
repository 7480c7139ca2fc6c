"""LZMA, by Python's own library: each page one .xz stream. Slow, and smaller than all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydump.errors import CompressionError
from pydump.hookspecs import hookimpl
from pydump.interfaces.compressor import Compressor
from pydump.options import option

#: The largest page there is: a longer window finds nothing more.
WINDOW = 1 << 16
#: What a stream may ask for: our own take less than half of it.
MEMORY_LIMIT = 1 << 18


@dataclass(frozen=True, slots=True)
class LzmaOptions:
    """How hard to try."""

    preset: int = option(0, help="0 is fastest, 9 smallest", low=0, high=9)


class LzmaCompressor(Compressor):
    """Streams in the .xz container, which ends each with a checksum of the page."""

    name: ClassVar[str] = "lzma"
    Options: ClassVar[type] = LzmaOptions
    options: LzmaOptions

    @property
    def producer(self) -> str:
        return "Python's lzma"

    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        import lzma  # at first use: importing a plugin loads no codec

        window = {"id": lzma.FILTER_LZMA2, "preset": self.options.preset, "dict_size": WINDOW}
        return lzma.compress(data, check=lzma.CHECK_CRC32, filters=[window])

    def decompress(self, data: bytes | bytearray | memoryview, size: int) -> bytes:
        import lzma

        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY_LIMIT)
        try:
            page = stream.decompress(data, size)  # never more than a page, whatever the stream claims
            # The checksum lies behind the last byte of the page; a stream that goes on gives one byte more.
            excess = b"" if stream.eof else stream.decompress(b"", 1)
        except (lzma.LZMAError, EOFError) as error:
            raise CompressionError(self.name, str(error)) from None
        if excess or len(page) != size or not stream.eof or stream.unused_data:
            raise CompressionError(self.name, f"the stream of {len(data)} bytes is no page of {size}")
        return page


@hookimpl
def pydump_register_compressors() -> Sequence[type[Compressor]]:
    """``--compression lzma``."""
    return [LzmaCompressor]
