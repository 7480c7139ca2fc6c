"""Outputs that need no plugin: a file, and an open descriptor."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
from typing import Any, ClassVar, Self

from pydump.builtin.names import open_file_behind, refuse_planted
from pydump.errors import PlanError, SinkError
from pydump.interfaces.sink import Extent, Hole, Sink

#: Bytes written at once. The page cache takes as large a piece of memory as it is given data, and where none of several
#: MiB is free, making one costs seconds.
STEP = 2 << 20
#: What a file system answers that has no hard links: vfat and exFAT the first, others what their servers say.
NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP}


class FileSink(Sink):
    """A file that appears under its name when it is complete.

    Until then it has no name at all where the file system allows (O_TMPFILE), so that not even SIGKILL or a power
    cut leaves anything; elsewhere it has a temporary name beside the target. Its mode is 0600: a vmcore is full of
    secrets.
    """

    name: ClassVar[str] = "file"
    seekable: ClassVar[bool] = True
    shared: ClassVar[bool] = True

    def __init__(self, path: str, fd: int, temporary: str | None, *, force: bool, sync: bool) -> None:
        self.path = path
        self.sync = sync
        self._fd = fd
        self._temporary = temporary
        self._force = force
        #: Does the file have its name?
        self._named = False

    @classmethod
    def open(cls, argument: str, options: Any = None, *, force: bool = False, sync: bool = True) -> Self:
        if not argument or "\0" in argument:
            raise SinkError(f"cannot write a file {'with a NUL in its name' if argument else 'without a name'}")
        if os.path.isdir(argument):
            raise PlanError(f"{argument} is a directory", hint="name a file in it")
        directory = os.path.dirname(argument) or "."
        try:
            if _is_there(argument) and not force:
                raise PlanError(f"{argument} exists", hint="choose another name, or replace it with --force")
            try:
                if not os.path.exists("/proc/self/fd"):  # it is needed to give the file a name
                    raise FileNotFoundError
                fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
                temporary = None
            except OSError:
                temporary = _temporary(directory)
                fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SinkError(f"cannot write {argument}: {error.strerror}") from error
        return cls(argument, fd, temporary, force=force, sync=sync)

    def write(self, extent: Extent | Hole) -> None:
        if isinstance(extent, Hole):
            return
        view = memoryview(extent.data).cast("B")
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(self._fd, view[done : done + STEP], extent.offset + done)
        except OSError as error:
            raise self._failed(error) from error

    def commit(self, size: int) -> None:
        try:
            os.ftruncate(self._fd, size)
            if self.sync:
                os.fsync(self._fd)
            self._appear()
            os.close(self._fd)
            self._fd = -1
        except FileExistsError as error:
            self.abort()
            raise SinkError(
                f"{self.path} appeared while the dump was written; nothing was replaced", hint="use --force, or move it"
            ) from error
        except OSError as error:
            self.abort()
            raise self._failed(error) from error

    def abort(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._temporary:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)

    def _appear(self) -> None:
        """Give the file its name; without ``force`` never in place of another."""
        where = os.path.dirname(self.path) or "."
        directory = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if self._temporary is None:
                name = _temporary("") if self._force else os.path.basename(self.path)
                # Only linkat follows the symbolic link that stands for an open file, and Python takes it with a dir_fd.
                os.link(f"/proc/self/fd/{self._fd}", name, dst_dir_fd=directory, follow_symlinks=True)
                self._named = not self._force
                if self._force:
                    self._temporary = os.path.join(where, name)
            if self._temporary is not None:
                if self._force:
                    os.rename(self._temporary, self.path)
                else:
                    self._take_name(self._temporary)
                self._named = True
                self._temporary = None
            if self.sync:
                _sync_directory(directory)
        finally:
            os.close(directory)

    def _take_name(self, temporary: str) -> None:
        """Move the file from ``temporary`` to its name, if that is free."""
        try:
            os.link(temporary, self.path)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            # Whoever makes an empty file first has the name, and may replace that file.
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            try:
                os.rename(temporary, self.path)
            except OSError:
                os.unlink(self.path)
                raise
        else:
            self._named = True
            os.unlink(temporary)

    def _failed(self, error: OSError) -> SinkError:
        if self._named:
            return SinkError(
                f"{self.path} is written, but may not be on the disk: {error.strerror}",
                hint="read it back with pydump verify before you rely on it",
            )
        return SinkError(
            f"cannot write {self.path}: {error.strerror}; nothing was left there",
            hint="free some space or choose another place" if error.errno in _FULL else None,
        )


_FULL = {errno.ENOSPC, errno.EDQUOT}


def _is_there(path: str) -> bool:
    """Is anything at ``path``?

    Raises:
        OSError: Nothing can ever be there, as where the name is too long.
    """
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def _sync_directory(fd: int) -> None:
    """Have the names in a directory on the disk, where its file system can."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def _temporary(directory: str) -> str:
    """A name beside the target that nobody has: short, for the target's own may be as long as names can be."""
    return os.path.join(directory, f".pydump-{os.urandom(8).hex()}")


class DescriptorSink(Sink):
    """An open descriptor: standard output (``-``), ``fd:N``, or a device or pipe that has a name.

    It takes extents in ascending order only, and fills what lies between them with zeros.
    """

    name: ClassVar[str] = "fd"
    seekable: ClassVar[bool] = False

    def __init__(self, fd: int, label: str, *, owned: bool = False) -> None:
        self._fd = fd
        self._label = label
        self._owned = owned
        self._at = 0

    @classmethod
    def open(cls, argument: str, options: Any = None, *, force: bool = False, sync: bool = True) -> Self:
        try:
            return cls.of(int(argument), f"fd:{argument}")
        except ValueError:
            raise _no_descriptor(f"fd:{argument}") from None

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
            raise _no_descriptor(label)
        if os.isatty(fd):
            raise PlanError("a dump will not be written to a terminal", hint="redirect it: pydump dump … - > vmcore")
        return cls(fd, label)

    @classmethod
    def stdout(cls) -> Self:
        """Standard output.

        Raises:
            PlanError: It is closed, or a terminal.
        """
        return cls.of(1, "standard output")

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
        with contextlib.suppress(ValueError):
            return int(target.removeprefix("fd:"))
    owner, fd = open_file_behind(target)
    return fd if owner == os.getpid() else None


def _no_descriptor(label: str) -> PlanError:
    return PlanError(f"{label} is no descriptor open for writing", hint="pass one, as in 3>file pydump … fd:3")
