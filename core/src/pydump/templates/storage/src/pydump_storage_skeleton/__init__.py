"""A storage: ``skeleton:PATH``, a file that has a temporary name beside its own until it is complete."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from typing import Any, ClassVar

from pydump.errors import FormatError, PlanError, SinkError, SourceError
from pydump.hookspecs import hookimpl
from pydump.interfaces.backing import Backing
from pydump.interfaces.sink import Extent, Hole, Placement, Sink
from pydump.interfaces.storage import Storage


class SkeletonStorage(Storage):
    """Files."""

    name: ClassVar[str] = "skeleton"

    @classmethod
    def reader(cls, url: str, options: Any = None) -> Backing:
        return SkeletonBacking(url)

    @classmethod
    def writer(cls, url: str, options: Any = None, *, force: bool = False, sync: bool = True) -> Sink:
        path = url.removeprefix("skeleton:")
        if not force and os.path.lexists(path):
            raise PlanError(f"{path!r} exists", hint="choose another name, or replace it with --force")
        try:
            fd, temporary = tempfile.mkstemp(prefix=".skeleton.", dir=os.path.dirname(path) or ".")
        except OSError as error:
            raise SinkError(f"cannot write {path!r}: {error.strerror}", hint="write skeleton:PATH") from None
        return SkeletonSink(path, fd, temporary, force=force, sync=sync)


class SkeletonBacking(Backing):
    """Reads with positions, never with a file position, which forked processes would share."""

    def __init__(self, url: str) -> None:
        self.path = url
        path = url.removeprefix("skeleton:")
        try:
            self._fd = os.open(path, os.O_RDONLY)
            self.size = os.lseek(self._fd, 0, os.SEEK_END)
        except (OSError, ValueError) as error:
            raise SourceError(f"cannot open {path!r}: {error}", hint="write skeleton:PATH") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return SkeletonBacking, (self.path,)  # how another process opens it

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.check(offset, len(buffer))
        done = 0
        try:
            while done < len(buffer):
                n = os.preadv(self._fd, [buffer[done:]], offset + done)
                if n == 0:
                    raise FormatError(self.path, "the file became shorter while it was read", offset=offset + done)
                done += n
        except OSError as error:
            raise SourceError(f"cannot read {self.path!r}: {error.strerror}") from None

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class SkeletonSink(Sink):
    """Writes with positions, never with a file position, which forked processes would share."""

    placement: ClassVar[Placement] = "anywhere"
    shared: ClassVar[bool] = True

    def __init__(self, path: str, fd: int, temporary: str, *, force: bool, sync: bool) -> None:
        self._path = path
        self._fd = fd
        self._temporary = temporary
        self._force = force
        self._sync = sync
        self._end = 0
        self._made: os.stat_result | None = None

    def write(self, extent: Extent | Hole) -> None:
        if isinstance(extent, Hole):  # what is never written reads as zeros
            for zeros in extent.zeros(self._end):
                self.write(zeros)
            return
        view = memoryview(extent.data).cast("B")  # its items may be wider than a byte
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(self._fd, view[done:], extent.offset + done)
        except OSError as error:
            raise SinkError(f"cannot write {self._path!r}: {error.strerror}") from None
        self._end = max(self._end, extent.offset + extent.size)

    def commit(self, size: int) -> None:
        try:
            os.ftruncate(self._fd, size)
            if self._sync:
                os.fsync(self._fd)
            self._made = os.fstat(self._fd)
            if self._force:
                os.replace(self._temporary, self._path)
            else:
                os.link(self._temporary, self._path)  # which replaces nothing that has appeared meanwhile
        except (OSError, ValueError) as error:
            self.abort()
            raise SinkError(f"cannot write {self._path!r}: {error}; nothing was left there") from None
        self.abort()

    def abort(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with contextlib.suppress(OSError):
            os.unlink(self._temporary)

    def retract(self) -> None:
        with contextlib.suppress(OSError):
            if self._made is not None and os.path.samestat(os.lstat(self._path), self._made):
                os.unlink(self._path)


@hookimpl
def pydump_register_storages() -> Sequence[type[Storage]]:
    """``skeleton:PATH``."""
    return [SkeletonStorage]
