"""Outputs that need no plugin: a file, and an open descriptor."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import ClassVar, Self

from pydump.errors import PlanError, SinkError
from pydump.interfaces.sink import Extent, Hole, Sink

#: Bytes written at once. The page cache takes as large a piece of memory as it is given data, and where none of several
#: MiB is free, making one costs seconds.
STEP = 2 << 20


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

    @classmethod
    def open(cls, argument: str, *, force: bool = False, sync: bool = True) -> Self:
        if os.path.isdir(argument):
            raise PlanError(f"{argument} is a directory", hint="name a file in it")
        if not force and os.path.lexists(argument):
            raise PlanError(f"{argument} exists", hint="choose another name, or replace it with --force")
        directory = os.path.dirname(argument) or "."
        try:
            try:
                fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
                temporary = None
            except OSError:
                import tempfile

                fd, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(argument)}.", dir=directory)
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
        directory = os.open(os.path.dirname(self.path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if self._temporary is None:
                name = os.path.basename(self.path)
                if self._force:
                    name = f".{name}.{os.getpid()}"
                # Only linkat follows the symbolic link that stands for an open file, and Python takes it with a dir_fd.
                os.link(f"/proc/self/fd/{self._fd}", name, dst_dir_fd=directory, follow_symlinks=True)
                if self._force:
                    self._temporary = os.path.join(os.path.dirname(self.path), name)
            if self._temporary is not None:
                if self._force:
                    os.rename(self._temporary, self.path)
                else:
                    os.link(self._temporary, self.path)
                    os.unlink(self._temporary)
                self._temporary = None
            if self.sync:
                os.fsync(directory)
        finally:
            os.close(directory)

    def _failed(self, error: OSError) -> SinkError:
        return SinkError(
            f"cannot write {self.path}: {error.strerror}; nothing was left there",
            hint="free some space or choose another place" if error.errno in _FULL else None,
        )


_FULL = {28, 122}  # ENOSPC, EDQUOT


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
    def open(cls, argument: str, *, force: bool = False) -> Self:
        try:
            fd = int(argument)
            os.fstat(fd)
        except (ValueError, OSError) as error:
            raise PlanError(
                f"fd:{argument} is no open descriptor", hint="pass one, as in 3>file pydump … fd:3"
            ) from error
        return cls(fd, f"fd:{argument}")

    @classmethod
    def stdout(cls) -> Self:
        """Standard output.

        Raises:
            PlanError: It is a terminal.
        """
        if os.isatty(1):
            raise PlanError("a dump will not be written to a terminal", hint="redirect it: pydump dump … - > vmcore")
        return cls(1, "standard output")

    @classmethod
    def special(cls, path: str) -> Self | None:
        """The device, pipe or socket at ``path``; None where there is none, so that a file can be made."""
        try:
            if stat.S_ISREG(os.stat(path).st_mode) or stat.S_ISDIR(os.stat(path).st_mode):
                return None
            return cls(os.open(path, os.O_WRONLY | os.O_CLOEXEC), path, owned=True)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SinkError(f"cannot write {path}: {error.strerror}") from error

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
            while view:
                n = os.write(self._fd, view)
                self._at += n
                view = view[n:]
        except BrokenPipeError as error:
            raise SinkError(f"{self._label}: the reader went away before the dump was complete") from error
        except OSError as error:
            raise SinkError(f"cannot write to {self._label}: {error.strerror}; what is there is incomplete") from error
