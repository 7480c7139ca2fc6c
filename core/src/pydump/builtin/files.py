"""Plain files as random-access bytes."""

from __future__ import annotations

import fcntl
import logging
import os
import select
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakSet

from pydump.builtin.spool import HEAD_SIZE, PACKINGS, Packing, packing_of, spool
from pydump.errors import FormatError, PlanError, SourceError
from pydump.interfaces.backing import Backing, data_of

#: Seconds after which it is said that a named pipe has no writer.
PATIENCE = 2


#: The files that are read now, and those that nobody uses any more until they are collected.
_ALIVE: WeakSet[FileBacking] = WeakSet()


def refuse_input(path: str, found: os.stat_result) -> None:
    """Refuse to write to a file that this process reads.

    Args:
        path: What the user called the output.
        found: Its device and inode.

    Raises:
        PlanError: It is read, by this name or by another.
    """
    where = found.st_dev, found.st_ino
    read = next((one for one in _ALIVE if one.fd >= 0 and one.origin == where), None)
    if read is not None:
        which = "the input" if read.path == path else f"the same file as the input {read.path}"
        raise PlanError(f"{path} is {which}", hint="write to another file")


class FileBacking(Backing):
    """A file or block device, read with positioned reads; the file position is never used.

    It can be pickled where it has a name that another process can open.
    """

    #: What else opens it, or an empty string.
    _name = ""
    #: Device and inode of the file that was named, also where its content was copied; None where there is none.
    origin: tuple[int, int] | None = None

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.size = os.lseek(fd, 0, os.SEEK_END)
        _ALIVE.add(self)

    @classmethod
    def open(
        cls,
        path: str,
        accept: Callable[[bytes], object] | None = None,
        packings: Sequence[Packing] = PACKINGS,
    ) -> FileBacking:
        """Open ``path``.

        A pipe, ``-`` for standard input included, is copied to an unnamed file first, and what is compressed is
        unpacked there.

        Args:
            path: What to open.
            accept: Called with the first bytes of what is copied before the rest is; raises if it is of no use.
            packings: What is unpacked.

        Raises:
            PlanError: The path is empty.
            SourceError: It cannot be opened or read.
        """
        if path == "-":
            return cls.of(0, "standard input", accept, packings)
        if not path:
            raise PlanError("the source has no name", hint="name a file, or - for standard input")
        try:
            fd = _open_file(path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise SourceError(f"cannot open {path}: {reason}") from None
        opened = cls._opened(fd, path, accept, packings)
        if opened.fd == fd:
            opened._name = os.path.abspath(path)
        return opened

    @classmethod
    def of(
        cls,
        number: int,
        label: str,
        accept: Callable[[bytes], object] | None = None,
        packings: Sequence[Packing] = PACKINGS,
    ) -> FileBacking:
        """A descriptor that is open, which stays so; the rest is as :meth:`open` has it.

        Args:
            number: Its number.
            label: What to call it.
            accept: Called with the first bytes of what is copied.
            packings: What is unpacked.

        Raises:
            SourceError: It is not open, or cannot be read.
        """
        try:
            closed = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
            fd = -1 if closed else os.dup(number)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise SourceError(f"cannot open {label}: {reason}") from None
        if closed:  # standard input that was closed is open for writing: see __main__
            how = "is closed" if number == 0 else "is not open for reading"
            raise SourceError(f"{label} {how}", hint="redirect it: < vmcore, or send a dump through a pipe")
        return cls._opened(fd, label, accept, packings)

    @classmethod
    def _opened(
        cls, fd: int, label: str, accept: Callable[[bytes], object] | None, packings: Sequence[Packing]
    ) -> FileBacking:
        found = os.fstat(fd)
        mode = found.st_mode
        try:
            if stat.S_ISDIR(mode):
                raise SourceError(f"{label} is a directory", hint="name a file")
            if stat.S_ISCHR(mode):
                if os.path.samestat(found, os.stat(os.devnull)):
                    raise SourceError(f"{label} is empty")
                kind = "a terminal" if os.isatty(fd) else "a device without an end"
                raise SourceError(f"{label} is {kind}", hint="name a file, or send one through a pipe")
            flows = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
            if not flows and packing_of(os.pread(fd, HEAD_SIZE, 0), packings) is None:
                opened = cls(label, fd)
                opened.origin = found.st_dev, found.st_ino
                return opened
            if not flows:
                os.lseek(fd, 0, os.SEEK_SET)
            with open(fd, "rb", closefd=False) as stream:
                spooled = spool(stream, label, packings, accept)
            os.close(fd)
            opened = cls(label, spooled.fd)
            opened.origin = None if flows else (found.st_dev, found.st_ino)
            opened.warnings = spooled.warnings
            return opened
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

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._name:
            raise TypeError(f"{self.path} has no name that another process could open")
        return _reopen, (self._name, self.path, self.size, os.fstat(self.fd).st_mtime_ns)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _open_file(path: str) -> int:
    """Open a file. A named pipe has no writer yet perhaps: wait for one, and say so where it takes long."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            come = select.poll()
            come.register(fd, select.POLLIN)
            if not come.poll(1000 * PATIENCE):
                logging.getLogger("pydump").warning("%s is a named pipe: waiting for somebody to write to it", path)
                come.poll()
        os.set_blocking(fd, True)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _reopen(name: str, label: str, size: int, mtime: int) -> FileBacking:
    """The file ``name``, as another process opened it when it had this size in bytes, and was changed at ``mtime``.

    Raises:
        SourceError: It cannot be opened, or has changed since.
    """
    opened = FileBacking.open(name, packings=())
    if (opened.size, os.fstat(opened.fd).st_mtime_ns) != (size, mtime):
        opened.close()
        raise SourceError(f"{name} has changed since it was opened", hint="start again, and leave the file alone")
    opened.path = label
    return opened


def unpacked(
    backing: Backing, accept: Callable[[bytes], object] | None = None, packings: Sequence[Packing] = PACKINGS
) -> Backing:
    """The content of a compressed file, copied to an unnamed file; where it is not compressed, ``backing`` itself.

    Args:
        backing: Closed where its content is copied, and where that fails.
        accept: Called with the first bytes of the content before the rest is copied; raises if they are of no use.
        packings: What is unpacked.

    Raises:
        SourceError: It cannot be read, or there is no room for it.
    """
    try:
        if packing_of(backing.read(0, min(HEAD_SIZE, backing.size)), packings) is None:
            return backing
        spooled = spool(_Stream(backing), backing.path, packings, accept)
    except BaseException:
        backing.close()
        raise
    backing.close()
    opened = FileBacking(backing.path, spooled.fd)
    opened.origin = backing.origin if isinstance(backing, FileBacking) else None
    opened.warnings = backing.warnings + spooled.warnings
    return opened


def unpacked_part(file: Backing, offset: int, packings: Sequence[Packing]) -> FileBacking:
    """What lies compressed in a file from an offset on, unpacked into an unnamed file.

    Args:
        file: The file.
        offset: Where the compressed stream begins; it reaches to the file's end.
        packings: What is unpacked; anything else is copied.

    Raises:
        SourceError: There is no room for it, or it cannot be read.
    """
    spooled = spool(_Stream(file, offset), file.path, packings, None)
    opened = FileBacking(file.path, spooled.fd)
    opened.warnings = spooled.warnings
    return opened


class _Stream:
    """A backing, read from an offset to its end."""

    def __init__(self, backing: Backing, offset: int = 0) -> None:
        self._backing = backing
        self._at = offset

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; none at the end."""
        data = self._backing.read(self._at, min(size, self._backing.size - self._at))
        self._at += len(data)
        return data
