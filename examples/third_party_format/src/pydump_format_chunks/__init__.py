"""Chunk files: guest facts as JSON, memory in chunks that are compressed one by one.

Reader and writer are loaded when one is wanted.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydump.hookspecs import hookimpl
from pydump.interfaces.format import Format

if TYPE_CHECKING:
    from pydump.interfaces.compressor import Compressor
    from pydump.interfaces.format import Opened
    from pydump.interfaces.image import MemoryImage
    from pydump.interfaces.writer import Writer
    from pydump.model.plan import Plan

MAGIC = b"CHUNKS1\n"
#: What a file begins with: the magic, and the length of the header behind it.
PREFIX = struct.Struct("<8sQ")
#: An entry of the table: offset (0 for a chunk of zeros), bytes, and whether they are compressed.
ENTRY = struct.Struct("<QII")
#: Bytes of guest memory in a chunk, and what its address is a multiple of.
CHUNK = 1 << 16


class ChunksFormat(Format):
    """Chunk files; a header names their compressor, so that there is no table of numbers."""

    name: ClassVar[str] = "chunks"
    compressors: ClassVar[tuple[str, ...]] = ("zlib", "zstd", "lzo", "snappy", "lzma")

    @classmethod
    def detect(cls, head: bytes) -> bool:
        return head.startswith(MAGIC)

    @classmethod
    def open(cls, opened: Opened) -> MemoryImage:
        from pydump_format_chunks.reader import ChunksImage

        return ChunksImage(opened.files[0], opened.decompressors)

    @classmethod
    def writer(cls, plan: Plan, compressor: Compressor | None) -> Writer:
        from pydump_format_chunks.writer import ChunksWriter

        return ChunksWriter(plan, compressor)


@hookimpl
def pydump_register_formats() -> Sequence[type[Format]]:
    """``--format chunks``."""
    return [ChunksFormat]
