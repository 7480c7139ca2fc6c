"""A file as an output."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

from pydump.builtin.files import refuse_input
from pydump.errors import PlanError, SinkError
from pydump.interfaces.backing import Backing
from pydump.interfaces.sink import Extent, Hole, Placement, SharedOutput, Sink

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

    placement: ClassVar[Placement] = "anywhere"
    shared: ClassVar[bool] = True

    def __init__(self, path: str, fd: int, temporary: str | None, *, force: bool, sync: bool) -> None:
        self.path = path
        self.sync = sync
        self._fd = fd
        self._temporary = temporary
        self._force = force
        #: Where what this process wrote ends. No process makes a hole over what another one wrote.
        self._end = 0
        #: Does the file have its name?
        self._named = False
        #: Its device and inode, once it is complete.
        self._identity: tuple[int, int] | None = None

    @classmethod
    def open(cls, path: str, *, force: bool = False, sync: bool = True) -> Self:
        """Open ``path`` for writing; see :meth:`pydump.interfaces.storage.Storage.writer`."""
        if not path:
            raise PlanError("the output has no name", hint="name a file, or - for standard output")
        if "\0" in path:
            raise SinkError("cannot write a file with a NUL in its name")
        if os.path.isdir(path):
            raise PlanError(f"{path} is a directory", hint="name a file in it")
        directory = os.path.dirname(path) or "."
        with contextlib.suppress(OSError):
            refuse_input(path, os.stat(path))
        try:
            if _is_there(path) and not force:
                raise PlanError(f"{path} exists", hint="choose another name, or replace it with --force")
            try:
                if not os.path.exists("/proc/self/fd"):  # it is needed to give the file a name
                    raise FileNotFoundError
                fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
                temporary = None
            except OSError:
                temporary = _temporary(directory)
                fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SinkError(f"cannot write {path}: {error.strerror}") from error
        return cls(path, fd, temporary, force=force, sync=sync)

    def write(self, extent: Extent | Hole) -> None:
        try:
            for one in extent.zeros(self._end) if isinstance(extent, Hole) else (extent,):
                _write(self._fd, one)
        except OSError as error:
            raise self._failed(error) from error
        if isinstance(extent, Extent):
            self._end = max(self._end, extent.offset + extent.size)

    def share(self) -> SharedOutput | None:
        """The file by a temporary name beside the target: it has to have one."""
        if self._temporary is None:
            directory = os.path.dirname(self.path) or "."
            try:
                self._temporary = _named(self._fd, directory, _temporary(""))
            except OSError:  # workers send this process what they made
                return None
        return SharedFile(self.path, os.path.abspath(self._temporary))

    def written(self) -> Backing:
        from pydump.builtin.files import FileBacking

        return FileBacking(self.path, os.dup(self._fd))

    def prepare(self, size: int) -> None:
        try:
            os.ftruncate(self._fd, size)
            if self.sync:
                os.fsync(self._fd)
            found = os.fstat(self._fd)
            self._identity = found.st_dev, found.st_ino
        except OSError as error:
            self.abort()
            raise self._failed(error) from error

    def commit(self, size: int) -> None:
        if self._identity is None:
            self.prepare(size)
        try:
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

    def retract(self) -> None:
        with contextlib.suppress(OSError):
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == self._identity:
                os.unlink(self.path)

    def _appear(self) -> None:
        """Give the file its name. Without ``force``, no other file is replaced."""
        where = os.path.dirname(self.path) or "."
        if self._temporary is None:
            named = _named(self._fd, where, _temporary("") if self._force else os.path.basename(self.path))
            self._named = not self._force
            self._temporary = named if self._force else None
        if self._temporary is not None:
            if self._force:
                os.rename(self._temporary, self.path)
            else:
                self._take_name(self._temporary)
            self._named = True
            self._temporary = None
        if self.sync:
            with _directory(where) as directory:
                _sync_directory(directory)

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


@dataclass(frozen=True, slots=True)
class SharedFile(SharedOutput):
    """A file that is being written, on a file system that others have as well.

    Attributes:
        path: What messages call it.
        temporary: The name that it has meanwhile, which nobody else can guess.
    """

    path: str
    temporary: str

    def reached(self) -> bool:
        return os.access(self.temporary, os.W_OK)

    def write(self, extents: Iterable[Extent | Hole]) -> None:
        try:
            fd = os.open(self.temporary, os.O_WRONLY | os.O_CLOEXEC)
            try:
                for extent in extents:
                    _write(fd, extent)
            finally:
                os.close(fd)  # a network file system has it on the server then
        except OSError as error:
            where = f"cannot write {self.path} on {os.uname().nodename}"
            raise SinkError(f"{where}: {error.strerror}; nothing was left there") from error


@contextlib.contextmanager
def _directory(path: str) -> Iterator[int]:
    """A descriptor of a directory."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _named(fd: int, where: str, name: str) -> str:
    """Give an open file that has none a name in the directory ``where``; the path that it has then."""
    with _directory(where) as directory:
        # Only linkat follows the symbolic link that stands for an open file, and Python takes it with a dir_fd.
        os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=directory, follow_symlinks=True)
    return os.path.join(where, name)


def _write(fd: int, extent: Extent | Hole) -> None:
    """Write an extent to an open file."""
    if isinstance(extent, Hole):
        return
    view = memoryview(extent.data).cast("B")
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done : done + STEP], extent.offset + done)


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


def is_temporary(name: str) -> bool:
    """Whether ``name`` is one that a file has before it is complete."""
    return re.fullmatch(r"\.pydump-[0-9a-f]{16}", name) is not None
