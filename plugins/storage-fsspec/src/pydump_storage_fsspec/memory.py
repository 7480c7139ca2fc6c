"""``memory://``: an output in this process."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from pydump.errors import PlanError, SinkError
from pydump.interfaces.sink import Extent, Hole, Placement, Sink
from pydump_storage_fsspec.remote import filesystem


class MemorySink(Sink):
    """An output that fsspec's memory file system has when it is committed.

    Args:
        url: What the user wrote.
        force: Replace what is there.

    Raises:
        PlanError: Something is there and ``force`` is not set, or the URL is wrong.
    """

    placement: ClassVar[Placement] = "anywhere"

    def __init__(self, url: str, *, force: bool) -> None:
        self._url = url
        self._force = force
        self._fs, self._name = filesystem(url)
        self._data = bytearray()
        #: When the file was made.
        self._made: datetime | None = None
        if not force and self._fs.exists(self._name):
            raise PlanError(f"{url} exists", hint="choose another name, or replace it with --force")

    def write(self, extent: Extent | Hole) -> None:
        for one in extent.zeros(len(self._data)) if isinstance(extent, Hole) else (extent,):
            self._grow(one.offset + one.size)
            self._data[one.offset : one.offset + one.size] = memoryview(one.data).cast("B")

    def commit(self, size: int) -> None:
        if not self._force and self._fs.exists(self._name):
            raise SinkError(f"{self._url} appeared while the dump was written; nothing was replaced")
        self._grow(size)
        self._fs.pipe_file(self._name, bytes(self._data[:size]))
        self._made = self._fs.info(self._name)["created"]
        self.abort()

    def abort(self) -> None:
        self._data = bytearray()

    def retract(self) -> None:
        if self._fs.exists(self._name) and self._fs.info(self._name)["created"] == self._made:
            self._fs.rm_file(self._name)

    def _grow(self, size: int) -> None:
        self._data.extend(bytes(max(0, size - len(self._data))))
