"""Input that cannot be read at any offset is copied to an unnamed file first: what comes through a pipe, and compressed
files, which are unpacked on the way.

A bomb is bounded: it is unpacked in small pieces, zeros take no room, and copying stops before the disk is full.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from pydump.errors import CompressionError, SourceError

if TYPE_CHECKING:
    from pydump.interfaces.compressor import Unpacker

#: Bytes at the beginning of a file that tell what it is.
HEAD_SIZE: Final = 4096
#: Where input that cannot seek is kept while it is read: room for a dump, and not in memory.
SPOOL_DIRECTORY: Final = "/var/tmp"
#: Bytes that are unpacked at once. The most that any codec makes of one byte are 32,768 (Zstandard's RLE blocks).
PIECE: Final = 1024
#: Bytes that are written at once, and those that are left out where all are zero.
WRITTEN_AT_ONCE: Final = 1 << 20
HOLE: Final = memoryview(bytes(1 << 16))
#: What stays free on the disk: this much, or a part in twenty of a small one.
RESERVE: Final = 256 << 20
#: Compressed files in compressed files that are unpacked.
MAX_LAYERS: Final = 3
#: Memory that an xz stream may take: its own largest preset takes 65 MiB.
XZ_MEMORY: Final = 256 << 20


class Readable(Protocol):
    """What is copied."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; none at the end."""
        ...


class Packing(NamedTuple):
    """A kind of compressed file.

    Attributes:
        name: What it is called.
        magic: What it begins with.
        unpacker: Makes what unpacks one stream of it; a file may hold several, one after the other.
    """

    name: str
    magic: bytes
    unpacker: Callable[[], Unpacker]


def _gzip() -> Unpacker:
    import zlib

    return zlib.decompressobj(31)


def _bzip2() -> Unpacker:
    import bz2

    return bz2.BZ2Decompressor()


def _xz() -> Unpacker:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)


#: What Python's own library unpacks. Source: RFC 1952, 2.3.1; bzip2's format; the .xz file format, 2.1.1.1.
PACKINGS: Final = (
    Packing("gzip", b"\x1f\x8b\x08", _gzip),
    Packing("bzip2", b"BZh", _bzip2),
    Packing("xz", b"\xfd7zXZ\0", _xz),
)


class Spooled(NamedTuple):
    """What was copied.

    Attributes:
        fd: Of the unnamed file.
        warnings: What the user should know, a line each.
    """

    fd: int
    warnings: tuple[str, ...]


def packing_of(head: bytes, packings: Sequence[Packing]) -> Packing | None:
    """The kind of compressed file that begins with ``head``, or None."""
    return next((packing for packing in packings if head.startswith(packing.magic)), None)


def spool(
    stream: Readable, label: str, packings: Sequence[Packing], accept: Callable[[bytes], object] | None
) -> Spooled:
    """Copy a stream to an unnamed file, unpacked where it is compressed.

    Args:
        stream: Read from where it is to its end.
        label: What to call it in messages.
        packings: What can be unpacked.
        accept: Called with the first bytes, unpacked, before the rest is copied; raises if they are of no use.

    Raises:
        SourceError: There is no room for it, or it cannot be read.
    """
    import tempfile

    warnings: list[str] = []
    pieces = _pieces(stream)
    head, pieces = _headed(pieces)
    for _ in range(MAX_LAYERS):
        packing = packing_of(head, packings)
        if packing is None:
            break
        head, pieces = _headed(_unpacked(pieces, packing, warnings))
        if not head:
            raise SourceError(f"{label} cannot be unpacked: {'; '.join(warnings) or 'there is nothing in it'}")
    if packing_of(head, packings) is not None:
        raise SourceError(f"{label} is compressed more than {MAX_LAYERS} times", hint="unpack it first")
    if accept is not None:
        accept(head)
    directory = os.environ.get("TMPDIR", SPOOL_DIRECTORY)
    try:
        with tempfile.TemporaryFile(dir=directory, prefix="pydump-", buffering=0) as file:
            _copy(pieces, file.fileno(), label, directory)
            return Spooled(os.dup(file.fileno()), tuple(warnings))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise _not_kept(label, directory, error.strerror or str(error), full=full) from None


def _pieces(stream: Readable) -> Iterator[bytes]:
    yield stream.read(HEAD_SIZE)  # who sends slowly learns soon that it is of no use
    while data := stream.read(WRITTEN_AT_ONCE):
        yield data


def _headed(pieces: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes, and all pieces with them."""
    first = bytearray()
    for piece in pieces:
        first += piece
        if len(first) >= HEAD_SIZE:
            break

    def again() -> Iterator[bytes]:
        yield bytes(first)
        yield from pieces

    return bytes(first[:HEAD_SIZE]), again()


def _unpacked(pieces: Iterator[bytes], packing: Packing, warnings: list[str]) -> Iterator[bytes]:
    """The content of a compressed file. Where it is damaged or cut off, what is before, and a warning."""
    done = 0
    decoder: Unpacker | None = None
    for piece in pieces:
        for at in range(0, len(piece), PIECE):
            data = piece[at : at + PIECE]
            while data:
                if decoder is None:
                    data = data.lstrip(b"\0")  # padding between streams and behind the last
                    if not data:
                        break
                    decoder = packing.unpacker()
                try:
                    out = decoder.decompress(data)
                except Exception as error:  # each library has errors of its own
                    why = error.message if isinstance(error, CompressionError) else str(error)
                    warnings.append(f"the {packing.name} stream is damaged after {done} bytes: {why}")
                    return
                if out:
                    done += len(out)
                    yield out
                data = decoder.unused_data if decoder.eof else b""
                if decoder.eof:
                    decoder = None
    if decoder is not None:
        warnings.append(f"the {packing.name} stream is cut off after {done} bytes")


def _copy(pieces: Iterator[bytes], fd: int, label: str, directory: str) -> None:
    """Write the pieces one after the other, with holes for zeros."""
    at = 0
    waiting = bytearray()

    def write(data: bytearray) -> None:
        nonlocal at
        free = os.fstatvfs(fd)
        if free.f_bavail * free.f_frsize < min(RESERVE, free.f_blocks * free.f_frsize // 20) + len(data):
            raise _not_kept(label, directory, "there is too little room left on the disk", full=True)
        for start in range(0, len(data), len(HOLE)):
            block = memoryview(data)[start : start + len(HOLE)]
            if block != HOLE[: len(block)]:
                done = 0
                while done < len(block):
                    done += os.pwrite(fd, block[done:], at + start + done)
        at += len(data)

    for piece in pieces:
        waiting += piece
        if len(waiting) >= WRITTEN_AT_ONCE:
            write(waiting)
            waiting = bytearray()
    write(waiting)
    os.truncate(fd, at)


def _not_kept(label: str, directory: str, why: str, *, full: bool) -> SourceError:
    return SourceError(
        f"cannot keep {label} in {directory} while it is read: {why}",
        hint="set TMPDIR to a directory " + ("with room for it" if full else "that is there and can be written to"),
    )
