"""The two libraries that speak LZO1X. Making an instance loads the library."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Protocol

from pydump.errors import CompressionError


class Library(Protocol):
    """What a library does, as the methods of ``Compressor`` of the same names."""

    @property
    def producer(self) -> str: ...

    def compress(self, data: bytes | bytearray | memoryview) -> bytes: ...

    def compress_batch(self, data: memoryview, page_size: int, offsets: Sequence[int]) -> list[bytes]: ...

    def decompress(self, data: bytes | bytearray | memoryview, size: int) -> bytes: ...


class PythonLzo:
    """python-lzo: liblzo2, the reference implementation."""

    def __init__(self) -> None:
        import lzo

        self._compress = lzo.compress
        self._decompress = lzo.decompress
        self._error = lzo.error

    @property
    def producer(self) -> str:
        return f"python-lzo {version('python-lzo')}"

    # The arguments 1, False: level 1 is LZO1X-1 (9 is LZO1X-999), and no header of python-lzo's own.

    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        stream: bytes = self._compress(bytes(data), 1, False)
        return stream

    def compress_batch(self, data: memoryview, page_size: int, offsets: Sequence[int]) -> list[bytes]:
        import numpy as np

        # It takes no memoryview, but any buffer that needs no release: a NumPy slice saves copying each page.
        pages = np.frombuffer(data, np.uint8)
        compress = self._compress
        return [compress(pages[offset : offset + page_size], 1, False) for offset in offsets]

    def decompress(self, data: bytes | bytearray | memoryview, size: int) -> bytes:
        try:
            page: bytes = self._decompress(bytes(data), False, size)
        except self._error as error:
            # "Compressed data violation -N"; the meaning of N stands in lzoconf.h.
            code = str(error).rsplit(" ", 1)[-1]
            raise CompressionError("lzo", _REASONS.get(code, f"the stream is damaged: {error}")) from None
        return _checked(page, size)


class Lzallright:
    """lzallright: an independent implementation in Rust, with wheels."""

    def __init__(self) -> None:
        from lzallright import LZOCompressor, LZOError

        # The object holds the compressor's working memory, which begins anew with each page.
        self._codec = LZOCompressor()
        self._error = LZOError

    @property
    def producer(self) -> str:
        return f"lzallright {version('lzallright')}"

    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        return self._codec.compress(data)

    def compress_batch(self, data: memoryview, page_size: int, offsets: Sequence[int]) -> list[bytes]:
        compress = self._codec.compress
        return [compress(data[offset : offset + page_size]) for offset in offsets]

    def decompress(self, data: bytes | bytearray | memoryview, size: int) -> bytes:
        # The library doubles its buffer until the output fits. A byte of input gives at most 255 of output, so what a
        # page can reserve is bounded by what we let in: no stream of ``size`` bytes is longer than this.
        if len(data) > size + size // 16 + 67:
            raise CompressionError("lzo", f"{len(data)} bytes are too many for a page of {size}")
        try:
            page = self._codec.decompress(data, size)
        except self._error as error:
            raise CompressionError("lzo", _REASONS.get(str(error.args[0]), "the stream is damaged")) from None
        return _checked(page, size)


_OUTPUT_OVERRUN = "the stream holds more bytes than the page"
_REASONS = {
    "-4": "the stream is cut off",
    "EResult.InputOverrun": "the stream is cut off",
    "-5": _OUTPUT_OVERRUN,
    "-6": "the stream is damaged: a match reaches before the page",
    "EResult.LookbehindOverrun": "the stream is damaged: a match reaches before the page",
    "-8": "bytes follow the stream",
    "EResult.InputNotConsumed": "bytes follow the stream",
}


def _checked(page: bytes, size: int) -> bytes:
    if len(page) > size:
        raise CompressionError("lzo", _OUTPUT_OVERRUN)
    if len(page) < size:
        raise CompressionError("lzo", f"the page has {size} bytes, the stream holds {len(page)}")
    return page
