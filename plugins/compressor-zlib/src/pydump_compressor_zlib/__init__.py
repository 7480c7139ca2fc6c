"""zlib: each page one stream of RFC 1950, made by the fastest library that is installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType
from typing import Any, ClassVar

from pydump.errors import CompressionError, PlanError
from pydump.hookspecs import hookimpl
from pydump.interfaces.compressor import Compressor
from pydump.options import option

#: Library to module. All three have the functions of Python's own zlib.
LIBRARIES = {"zlib-ng": "zlib_ng.zlib_ng", "isal": "isal.isal_zlib", "zlib": "zlib"}

_PACKAGES = {library: module.partition(".")[0] for library, module in LIBRARIES.items()}
_INSTALL = {"zlib-ng": "zlib-ng", "isal": "'pydump-compressor-zlib[isal]'"}

#: ISA-L counts its levels from 0, and has four.
ISAL_LEVELS = {1: 0, 2: 1, 3: 2, 4: 3}


@dataclass(frozen=True, slots=True)
class ZlibOptions:
    """How hard to try, and with what."""

    level: int = option(1, help="1 is fastest, 9 smallest", low=1, high=9)
    library: str = option(
        "auto", help="the library that compresses: auto takes the fastest installed", choices=("auto", *LIBRARIES)
    )


class ZlibCompressor(Compressor):
    """zlib streams, by zlib-ng, ISA-L or zlib.

    Attributes:
        library: The key of ``LIBRARIES`` that was chosen.

    Raises:
        PlanError: The library that was asked for is not installed, or is ISA-L, which has no such level.
    """

    name: ClassVar[str] = "zlib"
    Options: ClassVar[type] = ZlibOptions
    options: ZlibOptions

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.library = _library(self.options)
        self._level = ISAL_LEVELS[self.options.level] if self.library == "isal" else self.options.level

    @property
    def producer(self) -> str:
        release = self._codec.ZLIB_RUNTIME_VERSION if self.library == "zlib" else version(self.library)
        return f"{self.library} {release}"

    @property
    def advice(self) -> str:
        # Who asks for zlib by name gets it.
        if self.options.library != "auto" or self.library != "zlib":
            return ""
        return "zlib-ng compresses three times as fast; pip install zlib-ng builds it (a C compiler and CMake)"

    @cached_property
    def _codec(self) -> ModuleType:
        return import_module(LIBRARIES[self.library])

    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        stream: bytes = self._codec.compress(data, self._level)
        return stream

    def compress_batch(self, data: memoryview, page_size: int, offsets: Sequence[int]) -> list[bytes]:
        compress, level = self._codec.compress, self._level
        return [compress(data[offset : offset + page_size], level) for offset in offsets]

    def decompress(self, data: bytes | bytearray | memoryview, size: int) -> bytes:
        stream = self._codec.decompressobj()
        try:
            page: bytes = stream.decompress(data, size)
            # The end of the stream may lie behind the last byte of output; a stream that goes on gives one byte more.
            excess = b"" if stream.eof else stream.decompress(stream.unconsumed_tail, 1)
        except self._codec.error as error:
            raise CompressionError(self.name, str(error)) from None
        if excess:
            raise CompressionError(self.name, f"the page has {size} bytes, the stream holds more")
        if not stream.eof:
            raise CompressionError(self.name, f"the stream of {len(data)} bytes is cut off")
        if len(page) != size:
            raise CompressionError(self.name, f"the page has {size} bytes, the stream holds {len(page)}")
        if stream.unused_data:
            raise CompressionError(self.name, f"{len(stream.unused_data)} bytes follow the stream")
        return page


def _library(options: ZlibOptions) -> str:
    """The library that ``options`` mean."""
    # ISA-L's two lower levels beat zlib-ng's in time; its others gain nothing over them.
    if options.library == "auto":
        fast = "isal" if options.level <= 2 and find_spec("isal") else "zlib-ng"
        return fast if find_spec(_PACKAGES[fast]) else "zlib"
    if not find_spec(_PACKAGES[options.library]):
        raise PlanError(f"{options.library} is not installed", hint=f"pip install {_INSTALL[options.library]}")
    if options.library == "isal" and options.level not in ISAL_LEVELS:
        raise PlanError(
            f"ISA-L has no level {options.level}: its levels are 1 to {max(ISAL_LEVELS)}",
            hint="use --zlib-library zlib-ng",
        )
    return options.library


@hookimpl
def pydump_register_compressors() -> Sequence[type[Compressor]]:
    """``--compression zlib``."""
    return [ZlibCompressor]
