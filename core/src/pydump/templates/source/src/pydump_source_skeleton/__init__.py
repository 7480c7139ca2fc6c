"""A source: ``skeleton:PATH``, a file of bare RAM that begins at 0."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Any, ClassVar

from pydump.errors import PlanError, ReadError, SourceError
from pydump.hookspecs import hookimpl
from pydump.interfaces.image import MemoryImage
from pydump.interfaces.source import Source
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap


class SkeletonSource(Source):
    """Opens ``skeleton:PATH``."""

    name: ClassVar[str] = "skeleton"

    @classmethod
    def open(cls, argument: str, options: Any = None) -> SkeletonImage:
        if not argument:
            raise PlanError("skeleton: does not name a file", hint="write skeleton:PATH")
        try:
            fd = os.open(argument, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise SourceError(f"cannot open {argument!r}: {error}", hint="write skeleton:PATH") from None
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            os.close(fd)
            raise SourceError(f"{argument!r} is not a regular file, or it is empty")
        return SkeletonImage(fd, status.st_size)


class SkeletonImage(MemoryImage):
    """Reads with positions, never with a file position, which forked processes would share."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._memory = MemoryMap.of([(0, size)])

    def guest(self) -> Guest:
        return Guest(self._memory)  # no more is known: the user says --arch

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            try:
                n = os.preadv(self._fd, [buffer[done:]], paddr + done)
            except OSError as error:
                raise ReadError(paddr, len(buffer), str(error)) from None
            if not n:
                raise ReadError(paddr, len(buffer), "the file has become shorter")
            done += n

    def close(self) -> None:
        os.close(self._fd)


@hookimpl
def pydump_register_sources() -> Sequence[type[Source]]:
    """``skeleton:PATH``."""
    return [SkeletonSource]
