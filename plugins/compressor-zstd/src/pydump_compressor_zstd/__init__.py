"""Zstandard: each page one frame, whose header says the page's size.

Source: RFC 8878, section 3.1.1.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, ClassVar

from pydump.errors import CompressionError
from pydump.hookspecs import hookimpl
from pydump.interfaces.compressor import Compressor, Unpacker
from pydump.options import option

if TYPE_CHECKING:
    from zstandard import ZstdCompressor as Encoder
    from zstandard import ZstdDecompressor as Decoder

#: The largest window of a frame that is not decoded in one go, in bytes: the most the library then reserves.
MAX_WINDOW = 1 << 17

#: The largest window of a file: what zstd takes without --long or --memory.
FILE_WINDOW = 1 << 27


@dataclass(frozen=True, slots=True)
class ZstdOptions:
    """How hard to try."""

    level: int = option(1, help="1 is fastest, 19 smallest", low=1, high=19)


class ZstdCompressor(Compressor):
    """Zstandard frames, by python-zstandard."""

    name: ClassVar[str] = "zstd"
    file_magic: ClassVar[bytes] = b"\x28\xb5\x2f\xfd"
    Options: ClassVar[type] = ZstdOptions
    options: ZstdOptions

    @property
    def producer(self) -> str:
        return f"zstandard {version('zstandard')}"

    @cached_property
    def _encoder(self) -> Encoder:
        from zstandard import ZstdCompressor

        return ZstdCompressor(level=self.options.level)

    @cached_property
    def _decoder(self) -> Decoder:
        from zstandard import ZstdDecompressor

        return ZstdDecompressor(max_window_size=MAX_WINDOW)

    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        return self._encoder.compress(data)

    def compress_batch(self, data: memoryview, page_size: int, offsets: Sequence[int]) -> list[bytes]:
        import zstandard

        # Debian's is built against the system's libzstd, and has no batch call.
        if not offsets or "multi_compress_to_buffer" not in zstandard.backend_features:
            return super().compress_batch(data, page_size, offsets)
        # An eighth faster than a call for each page. The library wants (offset, size) pairs of u64.
        segments = array("Q", (number for offset in offsets for number in (offset, page_size)))
        frames = self._encoder.multi_compress_to_buffer(zstandard.BufferWithSegments(data, segments.tobytes()))
        return [frames[i].tobytes() for i in range(len(frames))]

    def decompress(self, data: bytes | bytearray | memoryview, size: int) -> bytes:
        from zstandard import ZstdError, frame_content_size

        try:
            # What the frame claims is what the library reserves.
            claimed = frame_content_size(data)
            if claimed != size:
                holds = "does not say its size" if claimed < 0 else f"holds {claimed}"
                raise CompressionError(self.name, f"the page has {size} bytes, the frame {holds}")
            return self._decoder.decompress(data, allow_extra_data=False)
        except ZstdError as error:
            raise CompressionError(self.name, str(error)) from None

    def unpacker(self) -> Unpacker:
        from zstandard import ZstdDecompressor

        return ZstdDecompressor(max_window_size=FILE_WINDOW).decompressobj()


@hookimpl
def pydump_register_compressors() -> Sequence[type[Compressor]]:
    """``--compression zstd``."""
    return [ZstdCompressor]
