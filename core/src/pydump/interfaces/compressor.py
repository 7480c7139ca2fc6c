"""The compressor role: bytes in, bytes out. What number a format gives a compressor is the format's affair."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from pydump.errors import UnsupportedError
from pydump.options import NoOptions


class Unpacker(Protocol):
    """Unpacks one compressed stream, piece by piece, as Python's own libraries do."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""

    @property
    def unused_data(self) -> bytes:
        """What came behind its end."""

    def decompress(self, data: bytes, /) -> bytes:
        """What the next bytes of the stream unpack to."""


class Compressor(ABC):
    """Compresses pages one by one. The codec is loaded at first use, not at import.

    A pickled instance is rebuilt from its options alone, so codec objects may be kept as attributes.

    Attributes:
        options: An instance of the class's ``Options``.
    """

    #: Its registry name, as in ``--compression zstd``.
    name: ClassVar[str]
    #: What a file begins with that holds one such stream, or several, as ``*.zst``; empty where there are none.
    file_magic: ClassVar[bytes] = b""
    Options: ClassVar[type] = NoOptions

    def __init__(self, options: Any = None) -> None:
        self.options = self.Options() if options is None else options

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.options,)

    @property
    def producer(self) -> str:
        """Which library does the work, with its version: for ``pydump info`` and the report."""
        return self.name

    @property
    def advice(self) -> str:
        """What compresses faster than the library at work, and how to get it; empty where nothing does.

        One line, for ``pydump plugins`` and the report.
        """
        return ""

    @abstractmethod
    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        """The compressed form of one page. The same input gives the same output."""

    @abstractmethod
    def decompress(self, data: bytes | bytearray | memoryview, size: int) -> bytes:
        """The ``size`` bytes that ``data`` was made of.

        Never returns, and never reserves memory for, more than ``size`` bytes.

        Raises:
            CompressionError: ``data`` is damaged, or holds another number of bytes.
        """

    def compress_batch(self, data: memoryview, page_size: int, offsets: Sequence[int]) -> list[bytes]:
        """Compress the pages of ``data`` that begin at ``offsets``. Override it where a library has a batch call."""
        compress = self.compress
        return [compress(data[offset : offset + page_size]) for offset in offsets]

    def unpacker(self) -> Unpacker:
        """What unpacks a stream of a file that begins with ``file_magic``. It never takes more than 256 MiB of memory.

        Raises:
            UnsupportedError: There are no such files.
        """
        raise UnsupportedError(f"{self.name} has no files of its own")
