"""Plain files as random-access bytes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

from pydump.errors import FormatError, SourceError
from pydump.interfaces.backing import Backing

#: Where input that cannot seek is kept while it is read: room for a dump, and not in memory.
SPOOL_DIRECTORY = "/var/tmp"


class FileBacking(Backing):
    """A file or block device, read with positioned reads; the file position is never used."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.size = os.lseek(fd, 0, os.SEEK_END)

    @classmethod
    def open(cls, path: str) -> FileBacking:
        """Open ``path``; a pipe, ``-`` for standard input included, is copied to an unnamed file first.

        Raises:
            SourceError: It cannot be opened or read.
        """
        try:
            if path == "-":
                with open(0, "rb", closefd=False) as stream:
                    return cls("standard input", _spool(stream))
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            mode = os.fstat(fd).st_mode
            if stat.S_ISDIR(mode):
                os.close(fd)
                raise SourceError(f"{path} is a directory", hint="name a file")
            if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode):
                with open(fd, "rb") as stream:
                    return cls(path, _spool(stream))
            return cls(path, fd)
        except OSError as error:
            raise SourceError(f"cannot open {path}: {error.strerror}") from error

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.check(offset, len(buffer))
        done = 0
        while done < len(buffer):
            try:
                n = os.preadv(self.fd, [buffer[done:]], offset + done)
            except OSError as error:
                raise SourceError(f"cannot read {self.path} at offset {offset + done:#x}: {error.strerror}") from error
            if n == 0:
                raise FormatError(self.path, "the file became shorter while it was read", offset=offset + done)
            done += n

    def data_ranges(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        at, end = offset, offset + size
        while at < end:
            try:
                start = os.lseek(self.fd, at, os.SEEK_DATA)
                stop = min(os.lseek(self.fd, start, os.SEEK_HOLE), end) if start < end else end
            except OSError as error:
                if error.errno != errno.ENXIO:  # ENXIO: no data from here on; anything else: holes are not known
                    yield at, end
                return
            if start >= end:
                return
            yield start, stop
            at = stop

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _spool(stream: BinaryIO) -> int:
    """Copy a stream to an unnamed file and give its descriptor."""
    import shutil
    import tempfile

    with tempfile.TemporaryFile(dir=os.environ.get("TMPDIR", SPOOL_DIRECTORY), prefix="pydump-") as spool:
        shutil.copyfileobj(stream, spool, 1 << 20)
        spool.flush()
        return os.dup(spool.fileno())
