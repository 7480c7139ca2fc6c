"""Storages that need no plugin: files, and open descriptors."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from pydump.builtin.descriptors import DescriptorSink, descriptor_number, not_open
from pydump.builtin.files import FileBacking
from pydump.builtin.sinks import FileSink, is_temporary
from pydump.builtin.spool import PACKINGS, Packing
from pydump.errors import PlanError, SinkError, SourceError
from pydump.interfaces.backing import Backing
from pydump.interfaces.sink import Placement, Sink
from pydump.interfaces.storage import Leftover, Storage


class FileStorage(Storage):
    """``file:PATH`` and ``file:///PATH``: a file, or a pipe or device that has a name."""

    name: ClassVar[str] = "file"

    @classmethod
    def url(cls, path: str) -> str:
        """What names the file ``path``, whatever its characters are."""
        return f"file://{path}" if path.startswith("/") else f"file:{path}"

    @classmethod
    def path(cls, url: str) -> str:
        """The path that ``url`` names.

        Raises:
            PlanError: It is on another host.
        """
        path = url.partition(":")[2]
        if not path.startswith("//"):
            return path
        host, slash, path = path[2:].partition("/")
        if host not in ("", "localhost"):
            raise PlanError(f"{url} is on the host {host}", hint="write file:///PATH for a file of this one")
        return slash + path

    @classmethod
    def reader(
        cls,
        url: str,
        options: Any = None,
        *,
        accept: Callable[[bytes], object] | None = None,
        packings: Sequence[Packing] = PACKINGS,
    ) -> Backing:
        """Open a file; see :meth:`pydump.builtin.files.FileBacking.open` for ``accept`` and ``packings``."""
        return FileBacking.open(cls.path(url), accept, packings)

    @classmethod
    def writer(cls, url: str, options: Any = None, *, force: bool = False, sync: bool = True) -> Sink:
        path = cls.path(url)
        return DescriptorSink.special(path, force=force) or FileSink.open(path, force=force, sync=sync)

    @classmethod
    def leftovers(cls, url: str, options: Any = None) -> Sequence[Leftover]:
        """Files of this user that never got their name, in the directory, or the one of the file, that ``url`` names.

        There are none where the file system has files without names (O_TMPFILE).
        """
        path = cls.path(url)
        directory = path if os.path.isdir(path) else os.path.dirname(path) or "."
        try:
            with os.scandir(directory) as entries:
                found = [(entry, entry.stat(follow_symlinks=False)) for entry in entries if is_temporary(entry.name)]
        except OSError as error:
            raise SourceError(f"cannot list {directory}: {error.strerror}") from None
        found = [(entry, status) for entry, status in found if status.st_uid == os.geteuid()]
        found.sort(key=lambda one: one[1].st_mtime)
        return [
            Leftover(entry.path, status.st_mtime, status.st_size, partial(_remove, entry.path))
            for entry, status in found
        ]

    @classmethod
    def check(cls, url: str, options: Any = None, *, force: bool = False) -> Placement:
        special = DescriptorSink.special(cls.path(url), force=force, dry=True)
        return special.placement if special else super().check(url, options, force=force)


class DescriptorStorage(Storage):
    """``fd:N``, a descriptor that is open, and ``-``, standard input or output."""

    name: ClassVar[str] = "fd"

    @classmethod
    def reader(
        cls,
        url: str,
        options: Any = None,
        *,
        accept: Callable[[bytes], object] | None = None,
        packings: Sequence[Packing] = PACKINGS,
    ) -> Backing:
        """Read from a descriptor; see :meth:`pydump.builtin.files.FileBacking.open` for ``accept`` and ``packings``."""
        number = 0 if url == "-" else descriptor_number(url)
        if number is None:
            raise PlanError(f"{url} is not a descriptor", hint="pass one, as in 3<vmcore pydump … fd:3")
        return FileBacking.of(number, "standard input" if url == "-" else url, accept, packings)

    @classmethod
    def writer(cls, url: str, options: Any = None, *, force: bool = False, sync: bool = True) -> Sink:
        number = 1 if url == "-" else descriptor_number(url)
        if number is None:
            raise not_open(url)
        return DescriptorSink.of(number, "standard output" if url == "-" else url)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError as error:
        raise SinkError(f"cannot remove {path}: {error.strerror}") from None
