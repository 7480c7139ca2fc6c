"""A sink: ``skeleton:PATH``, a file that has a temporary name beside its own until it is complete."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from pydump.errors import PlanError, SinkError
from pydump.hookspecs import hookimpl
from pydump.interfaces.sink import Extent, Hole, Sink


class SkeletonSink(Sink):
    """Writes with positions, never with a file position, which forked processes would share."""

    name: ClassVar[str] = "skeleton"
    seekable: ClassVar[bool] = True
    shared: ClassVar[bool] = True

    def __init__(self, path: str, fd: int, temporary: str, *, force: bool, sync: bool) -> None:
        self._path = path
        self._fd = fd
        self._temporary = temporary
        self._force = force
        self._sync = sync

    @classmethod
    def open(cls, argument: str, options: Any = None, *, force: bool = False, sync: bool = True) -> Self:
        if not force and os.path.lexists(argument):
            raise PlanError(f"{argument!r} exists", hint="choose another name, or replace it with --force")
        try:
            fd, temporary = tempfile.mkstemp(prefix=".skeleton.", dir=os.path.dirname(argument) or ".")
        except OSError as error:
            raise SinkError(f"cannot write {argument!r}: {error.strerror}", hint="write skeleton:PATH") from None
        return cls(argument, fd, temporary, force=force, sync=sync)

    def write(self, extent: Extent | Hole) -> None:
        if isinstance(extent, Hole):
            return  # what is never written reads as zeros
        view = memoryview(extent.data).cast("B")  # its items may be wider than a byte
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(self._fd, view[done:], extent.offset + done)
        except OSError as error:
            raise SinkError(f"cannot write {self._path!r}: {error.strerror}") from None

    def commit(self, size: int) -> None:
        try:
            os.ftruncate(self._fd, size)
            if self._sync:
                os.fsync(self._fd)
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


@hookimpl
def pydump_register_sinks() -> Sequence[type[Sink]]:
    """``skeleton:PATH``."""
    return [SkeletonSink]
