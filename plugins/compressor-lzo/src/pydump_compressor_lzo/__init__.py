"""LZO1X-1: each page one raw stream, by python-lzo where it is installed, else by lzallright."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

from pydump.errors import PlanError
from pydump.hookspecs import hookimpl
from pydump.interfaces.compressor import Compressor

if TYPE_CHECKING:
    from pydump_compressor_lzo.libraries import Library

#: How to get the faster library.
PYTHON_LZO = "pip install python-lzo (it needs a C compiler, Python's headers and LZO's: liblzo2-dev, lzo-devel)"


class LzoCompressor(Compressor):
    """Raw LZO1X-1 streams, which have neither header nor checksum."""

    name: ClassVar[str] = "lzo"

    @property
    def producer(self) -> str:
        return self._library.producer

    @property
    def advice(self) -> str:
        return "" if find_spec("lzo") else f"python-lzo compresses about ten times as fast: {PYTHON_LZO}"

    @cached_property
    def _library(self) -> Library:
        from pydump_compressor_lzo.libraries import Lzallright, PythonLzo

        if find_spec("lzo"):
            return PythonLzo()
        if find_spec("lzallright"):
            return Lzallright()
        raise PlanError("no LZO library is installed", hint=PYTHON_LZO)

    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        return self._library.compress(data)

    def compress_batch(self, data: memoryview, page_size: int, offsets: Sequence[int]) -> list[bytes]:
        return self._library.compress_batch(data, page_size, offsets)

    def decompress(self, data: bytes | bytearray | memoryview, size: int) -> bytes:
        return self._library.decompress(data, size)


@hookimpl
def pydump_register_compressors() -> Sequence[type[Compressor]]:
    """``--compression lzo``."""
    return [LzoCompressor]
