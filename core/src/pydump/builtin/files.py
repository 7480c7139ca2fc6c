"""Plain files as random-access bytes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from io import BufferedReader

from pydump.errors import FormatError, SourceError
from pydump.interfaces.backing import Backing, data_of

#: Bytes at the beginning of a file that tell what it is.
HEAD_SIZE = 4096
#: Where input that cannot seek is kept while it is read: room for a dump, and not in memory.
SPOOL_DIRECTORY = "/var/tmp"


class FileBacking(Backing):
    """A file or block device, read with positioned reads; the file position is never used."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.size = os.lseek(fd, 0, os.SEEK_END)

    @classmethod
    def open(cls, path: str, accept: Callable[[bytes], object] | None = None) -> FileBacking:
        """Open ``path``; a pipe, ``-`` for standard input included, is copied to an unnamed file first.

        Args:
            path: What to open.
            accept: Called with the first bytes of a pipe before the rest is copied; raises if it is of no use.

        Raises:
            SourceError: It cannot be opened or read.
        """
        label = "standard input" if path == "-" else path
        try:
            fd = os.dup(0) if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise SourceError(f"cannot open {label or 'a file without a name'}: {reason}") from None
        mode = os.fstat(fd).st_mode
        try:
            if stat.S_ISDIR(mode):
                raise SourceError(f"{label} is a directory", hint="name a file")
            if stat.S_ISCHR(mode):
                kind = "a terminal" if os.isatty(fd) else "a device without an end"
                raise SourceError(f"{label} is {kind}", hint="name a file, or send one through a pipe")
            if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
                with open(fd, "rb", closefd=False) as stream:
                    spool = _spool(stream, label, accept)
                os.close(fd)
                return cls(label, spool)
            return cls(label, fd)
        except OSError as error:
            os.close(fd)
            raise SourceError(f"cannot read {label}: {error.strerror}") from None
        except BaseException:
            os.close(fd)
            raise

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
        return data_of(self.fd, offset, size)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _spool(stream: BufferedReader, label: str, accept: Callable[[bytes], object] | None) -> int:
    """Copy a stream to an unnamed file and give its descriptor."""
    import shutil
    import tempfile

    head = stream.read(HEAD_SIZE)
    if accept is not None:
        accept(head)
    directory = os.environ.get("TMPDIR", SPOOL_DIRECTORY)
    try:
        with tempfile.TemporaryFile(dir=directory, prefix="pydump-") as spool:
            spool.write(head)
            shutil.copyfileobj(stream, spool, 1 << 20)
            spool.flush()
            return os.dup(spool.fileno())
    except OSError as error:
        raise SourceError(
            f"cannot keep {label} in {directory} while it is read: {error.strerror}",
            hint="set TMPDIR to a directory with room for it",
        ) from None
