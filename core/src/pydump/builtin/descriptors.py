"""Open descriptors: those that the user names, standard output, and pipes and devices that have a name."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
from typing import ClassVar, Self

from pydump.builtin.files import refuse_input
from pydump.builtin.names import open_file_behind, refuse_planted
from pydump.errors import PlanError, SinkError
from pydump.interfaces.sink import Extent, Hole, Placement, Sink


class DescriptorSink(Sink):
    """An open descriptor: standard output (``-``), ``fd:N``, or a device or pipe that has a name.

    It takes extents in ascending order only, and fills what lies between them with zeros.
    """

    placement: ClassVar[Placement] = "ascending"

    def __init__(self, fd: int, label: str, *, owned: bool = False) -> None:
        self._fd = fd
        self._label = label
        self._owned = owned
        self._at = 0

    @classmethod
    def of(cls, fd: int, label: str) -> Self:
        """A descriptor that is open.

        Args:
            fd: Its number.
            label: What the user called it.

        Raises:
            PlanError: It is not open for writing, or a terminal.
        """
        try:
            writable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        except (OSError, OverflowError):
            writable = False
        if not writable and fd == 1:
            raise PlanError("standard output is closed", hint="redirect it: pydump dump … - > vmcore")
        if not writable:
            raise not_open(label)
        if os.isatty(fd):
            raise PlanError("a dump will not be written to a terminal", hint="redirect it: pydump dump … - > vmcore")
        refuse_input(label, os.fstat(fd))
        return cls(fd, label)

    @classmethod
    def special(cls, path: str, *, force: bool = False, dry: bool = False) -> Self | None:
        """The device, pipe or open descriptor at ``path``; None where a file can be made.

        Args:
            path: Where it is.
            force: Write also to a block device, and to what somebody else may have put there.
            dry: Do not open it: who reads from a pipe sees its end when it is closed.

        Raises:
            PlanError: It leads to a descriptor that cannot be had, or must not be written without ``force``.
            SinkError: It cannot be opened for writing.
        """
        if "\0" in path:
            return None
        owner, number = open_file_behind(path)
        try:
            pinned = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            return cls.of(number, path) if owner == os.getpid() else None
        except OSError as error:
            raise SinkError(f"cannot write {path}: {error.strerror}") from error
        try:
            mode = os.fstat(pinned).st_mode
            if not force and (owner or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))):
                refuse_planted(path, pinned)
            if owner == os.getpid():
                return cls.of(number, path)
            if stat.S_ISREG(mode) and owner:
                raise PlanError(f"{path} is a file that another process has open", hint="name the file itself")
            if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
                return None
            if stat.S_ISBLK(mode) and not force:
                raise PlanError(f"{path} is a block device", hint="--force overwrites what is on it")
            if not dry:
                return cls._opened(path, pinned)
            if not os.access(path, os.W_OK):
                raise SinkError(f"cannot write {path}: {os.strerror(errno.EACCES)}")
            return cls(-1, path)
        except OSError as error:
            if error.errno == errno.ENXIO and stat.S_ISFIFO(mode):
                raise SinkError(f"nobody reads from the pipe {path}", hint="start its reader first") from None
            raise SinkError(f"cannot write {path}: {error.strerror}") from error
        finally:
            os.close(pinned)

    @classmethod
    def _opened(cls, path: str, pinned: int) -> Self:
        """The special file that is open as ``pinned``, and no other that has its name now, open for writing."""
        # Without O_NONBLOCK a pipe that nobody reads from would be waited for.
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        try:
            fd = os.open(f"/proc/self/fd/{pinned}", flags)
        except FileNotFoundError:  # there is no /proc
            fd = os.open(path, flags)
        why = "is a terminal" if os.isatty(fd) else "was replaced while it was opened"
        if os.isatty(fd) or not os.path.samestat(os.fstat(fd), os.fstat(pinned)):
            os.close(fd)
            raise PlanError(f"a dump will not be written to {path}: it {why}", hint="name a file")
        os.set_blocking(fd, True)
        return cls(fd, path, owned=True)

    def write(self, extent: Extent | Hole) -> None:
        if extent.offset < self._at:
            raise SinkError(f"{self._label} cannot seek back to {extent.offset:#x}")
        self._zeros(extent.offset - self._at)
        if isinstance(extent, Hole):
            self._zeros(extent.size)
        else:
            self._all(memoryview(extent.data).cast("B"))

    def commit(self, size: int) -> None:
        self._zeros(size - self._at)
        self.abort()

    def abort(self) -> None:
        if self._owned:
            os.close(self._fd)
            self._owned = False

    def _zeros(self, size: int) -> None:
        zeros = memoryview(bytes(min(size, 1 << 20))) if size > 0 else memoryview(b"")
        while size > 0:
            n = min(size, len(zeros))
            self._all(zeros[:n])
            size -= n

    def _all(self, view: memoryview) -> None:
        try:
            write_all(self._fd, view)
        except BrokenPipeError as error:
            raise SinkError(f"{self._label}: the reader went away before the dump was complete") from error
        except OSError as error:
            raise SinkError(f"cannot write to {self._label}: {error.strerror}; what is there is incomplete") from error
        self._at += len(view)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of ``data`` to a descriptor, also to one that does not wait until it is ready.

    Raises:
        OSError: It could not be written.
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            ready = select.poll()
            ready.register(fd, select.POLLOUT)
            ready.poll()


def names_descriptor(target: str) -> bool:
    """Does ``target`` name an open descriptor of this process: ``-``, ``fd:N``, or a path that leads to one?"""
    return _number(target) is not None


def is_stdout(target: str) -> bool:
    """Does what is written to ``target`` come out of standard output, whatever name it has there?"""
    fd = _number(target)
    try:
        return os.path.samestat(os.fstat(1), os.stat(target) if fd is None else os.fstat(fd))
    except (OSError, ValueError, OverflowError):
        return False


def _number(target: str) -> int | None:
    """The number of the open descriptor that ``target`` names, or None."""
    if target == "-":
        return 1
    if target.startswith("fd:") and not os.path.lexists(target):
        return descriptor_number(target)
    owner, fd = open_file_behind(target)
    return fd if owner == os.getpid() else None


def descriptor_number(url: str) -> int | None:
    """The number in ``fd:N``, or None where N is not one."""
    number = url.removeprefix("fd:")
    return int(number) if number.isdecimal() and number.isascii() else None


def not_open(label: str) -> PlanError:
    """The error for a descriptor that cannot be written to."""
    return PlanError(
        f"{label} is not a descriptor that is open for writing", hint="pass one, as in 3>file pydump … fd:3"
    )
