"""Hashes of an output, and of guest memory whatever file holds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from pydump.engine.scan import Piece, scan
from pydump.interfaces.backing import Backing
from pydump.interfaces.executor import Executor
from pydump.interfaces.image import MemoryImage
from pydump.interfaces.sink import Extent, Hole, Placement, Sink
from pydump.layout.zero import zero_pages
from pydump.model.memory import Ranges
from pydump.model.progress import ProgressCallback
from pydump.model.request import Algorithm

if TYPE_CHECKING:
    import hashlib

#: What is known of both hashlib and coreutils: ``sha256sum``, ``sha512sum``.
ALGORITHMS: Final[tuple[Algorithm, ...]] = ("sha256", "sha512")
#: Bytes of a page of guest memory that is hashed by itself, whatever the guest's page size is.
PAGE: Final = 4096
#: Bytes that are read and hashed at once.
STEP: Final = 1 << 20


class HashingSink(Sink):
    """Hashes what goes to another sink in ascending order of offset.

    Args:
        inner: Where it goes.
        algorithm: How it is hashed.
    """

    placement: ClassVar[Placement] = "ascending"

    def __init__(self, inner: Sink, algorithm: Algorithm) -> None:
        self._inner = inner
        self._hash = _new(algorithm)
        self._at = 0

    @property
    def digest(self) -> str:
        """The hash of all that was written, in hexadecimal; complete after :meth:`prepare`."""
        return self._hash.hexdigest()

    def write(self, extent: Extent | Hole) -> None:
        self._zeros(extent.offset)
        if isinstance(extent, Hole):
            self._zeros(extent.offset + extent.size)
        else:
            self._hash.update(extent.data)
            self._at += extent.size
        self._inner.write(extent)

    def prepare(self, size: int) -> None:
        self._zeros(size)
        self._inner.prepare(size)

    def commit(self, size: int) -> None:
        self._zeros(size)
        self._inner.commit(size)

    def abort(self) -> None:
        self._inner.abort()

    def retract(self) -> None:
        self._inner.retract()

    def _zeros(self, end: int) -> None:
        """Hash the zeros that lie before ``end``."""
        _update_zeros(self._hash, end - self._at)
        self._at = max(self._at, end)


def hash_backing(backing: Backing, algorithm: Algorithm, tell: Callable[[int], None]) -> str:
    """The hash of a file, in hexadecimal.

    Args:
        backing: The file.
        algorithm: How it is hashed.
        tell: Called with the bytes that are done.

    Raises:
        SourceError: It cannot be read.
    """
    state, at = _new(algorithm), 0
    for start, end in backing.data_ranges(0, backing.size):
        _update_zeros(state, start - at)
        for at in range(start, end, STEP):
            state.update(backing.read(at, min(STEP, end - at)))
            tell(at)
        at = end
    _update_zeros(state, backing.size - at)
    tell(backing.size)
    return state.hexdigest()


def sum_line(digest: str, name: str) -> bytes:
    """The line that ``sha256sum -c`` takes. Source: coreutils, doc/coreutils.texi, md5sum invocation."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return ("\\" * (escaped != name) + f"{digest}  {escaped}\n").encode("utf-8", "surrogateescape")


def hash_memory(
    image: MemoryImage,
    ranges: Ranges,
    algorithm: Algorithm,
    *,
    page_size: int,
    executor: Executor | None = None,
    progress: ProgressCallback | None = None,
) -> str:
    """The hash of guest memory, in hexadecimal: the same whatever file holds the guest.

    For each 4096 bytes of guest-physical memory that are not all zero, in ascending order, it hashes their address as
    eight little-endian bytes and then their own hash. Memory that was left out or cannot be read counts as zeros.

    Args:
        image: The memory.
        ranges: What is hashed.
        algorithm: How.
        page_size: Of the guest, in bytes: a page that is damaged is zeros.
        executor: Whose workers hash; default: as many local ones as there are CPUs.
        progress: Told how far it is.

    Raises:
        ReadError: Some of the memory cannot be read.
    """
    state = _new(algorithm)
    task = _PageHashes(algorithm, page_size)
    for records in scan(image, ranges, task, unit=PAGE, executor=executor, phase="hash", progress=progress):
        state.update(records)
    return state.hexdigest()


@dataclass(frozen=True, slots=True)
class _PageHashes:
    """Address and hash of each page that is not zero."""

    algorithm: Algorithm
    page_size: int

    def examine(self, piece: Piece) -> bytes:
        """The records of the pages in a piece, end to end."""
        if piece.hole:
            return b""
        import numpy as np

        data, _ = piece.salvage(self.page_size)
        stored = np.flatnonzero(~zero_pages(data, PAGE))
        import hashlib

        new = getattr(hashlib, self.algorithm)
        records = bytearray()
        for page, paddr in zip(stored.tolist(), piece.pages(PAGE)[stored].tolist(), strict=True):
            records += paddr.to_bytes(8, "little") + new(data[page * PAGE : (page + 1) * PAGE]).digest()
        return bytes(records)


def _new(algorithm: Algorithm) -> hashlib._Hash:
    """An empty hash. Loading OpenSSL's takes 3 ms, which runs that hash nothing need not wait for."""
    import hashlib

    return hashlib.new(algorithm)


def _update_zeros(state: hashlib._Hash, size: int) -> None:
    zeros = bytes(min(STEP, max(0, size)))
    while size > 0:
        state.update(zeros[:size])
        size -= len(zeros)
