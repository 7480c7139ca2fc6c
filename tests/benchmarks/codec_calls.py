"""Each codec as ``pydump dump`` uses it: one call for a page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Compress = Callable[[Any], Any]


def _zlib_ng() -> Compress:
    from zlib_ng import zlib_ng

    return lambda page: zlib_ng.compress(page, 1)


def _isal() -> Compress:
    from isal import isal_zlib

    return lambda page: isal_zlib.compress(page, 0)


def _lzo() -> Compress:
    import lzo

    return lambda page: lzo.compress(page, 1, False)


def _snappy() -> Compress:
    import cramjam

    compress: Compress = cramjam.snappy.compress_raw
    return compress


def _zstd() -> Compress:
    from zstandard import ZstdCompressor

    return ZstdCompressor(level=1).compress


#: Each codec as ``pydump dump`` uses it.
CODECS: dict[str, Callable[[], Compress]] = {
    "zlib by zlib-ng": _zlib_ng,
    "zlib by ISA-L": _isal,
    "lzo": _lzo,
    "snappy": _snappy,
    "zstd": _zstd,
}


def converter(codec: str) -> Callable[[Any], Any]:
    """What makes of a slice of memory what the codec takes."""
    return bytes if codec == "lzo" else lambda page: page  # python-lzo takes bytes only
