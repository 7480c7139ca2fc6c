"""An object that is read with ranged requests."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Any, ClassVar, Final

from pydump.errors import FormatError, SourceError
from pydump.interfaces.backing import Backing
from pydump_storage_fsspec.listing import state_in
from pydump_storage_fsspec.remote import again, filesystem, passes, reason

#: Small reads fetch and keep whole blocks of so many bytes, at most so many of them.
BLOCK, BLOCKS = 16 << 10, 1024
#: A read from so many bytes on is not kept: who reads memory from its begin to its end comes back to nothing.
LARGE: Final = 512 << 10
#: A large read is cut into requests of so many bytes, which are made at once.
PIECE, AT_ONCE = 1 << 20, 8


class RemoteBacking(Backing):
    """An object of a store, or a file of a server.

    Each process has connections and blocks of its own: a forked one makes new ones.

    Args:
        url: What the user wrote.

    Raises:
        PlanError: The URL is wrong, or a library is missing.
        SourceError: It is not there, or cannot be read.
    """

    remote: ClassVar[bool] = True

    def __init__(self, url: str) -> None:
        self.path = url
        self._process = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._connect()
        try:
            info = again(lambda: self._fs.info(self._name))
        except Exception as error:  # each library has errors of its own
            raise self._failed(error) from None
        self._state = state_in(info)
        size = info.get("size")
        if info.get("type") == "directory":
            raise SourceError(f"{url} is a directory", hint="name an object in it")
        if size is None:
            raise SourceError(
                f"{url}: the server does not say how long it is",
                hint=f"fetch it through a pipe, as curl {url} | pydump … -",
            )
        self.size = int(size)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.path, self._state)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.check(offset, len(buffer))
        if not buffer:
            return
        if self._process != os.getpid():
            self._connect()
        if len(buffer) >= LARGE:
            self._fetch_into(offset, buffer)
            return
        first, last = offset // BLOCK, (offset + len(buffer) - 1) // BLOCK
        self._get(first, last)
        for number in range(first, last + 1):
            start = max(offset, number * BLOCK)
            end = min(offset + len(buffer), (number + 1) * BLOCK)
            block = self._blocks[number]
            self._blocks.move_to_end(number)
            buffer[start - offset : end - offset] = block[start - number * BLOCK : end - number * BLOCK]
        while len(self._blocks) > BLOCKS:
            self._blocks.popitem(last=False)

    def close(self) -> None:
        self._blocks.clear()

    def _connect(self) -> None:
        self._fs, self._name = filesystem(self.path)
        self._process = os.getpid()
        self._blocks.clear()

    def _get(self, first: int, last: int) -> None:
        """Have all blocks from ``first`` to ``last``; those that are missing side by side are one request."""
        missing = [number for number in range(first, last + 1) if number not in self._blocks]
        if not missing:
            return
        low, high = missing[0], missing[-1]
        start, end = low * BLOCK, min((high + 1) * BLOCK, self.size)
        data = memoryview(bytearray(end - start))
        self._fetch_into(start, data)
        for number in range(low, high + 1):
            self._blocks[number] = bytes(data[(number - low) * BLOCK : (number - low + 1) * BLOCK])

    def _fetch_into(self, offset: int, buffer: memoryview) -> None:
        """Fetch a range, in pieces at once; those that fail are asked for again."""
        wanted = [(at, min(at + PIECE, len(buffer))) for at in range(0, len(buffer), PIECE)]

        def fetch() -> None:
            for group in [wanted[i : i + AT_ONCE] for i in range(0, len(wanted), AT_ONCE)]:
                starts = [offset + start for start, _ in group]
                ends = [offset + end for _, end in group]
                answers = self._fs.cat_ranges([self._name] * len(group), starts, ends, on_error="return")
                fault: Exception | None = None
                for piece, answer in zip(group, answers, strict=True):
                    start, end = piece
                    if isinstance(answer, Exception):
                        fault = answer if fault is None or passes(fault) else fault
                    elif len(answer) > end - start:
                        raise SourceError(
                            f"{self.path}: the server sends the whole file where a part is asked for",
                            hint=f"fetch it through a pipe, as curl {self.path} | pydump … -",
                        )
                    elif len(answer) < end - start:
                        fault = fault or EOFError(f"only {len(answer)} of {end - start} bytes came")
                    else:
                        buffer[start:end] = answer
                        wanted.remove(piece)
                if fault is not None:
                    raise fault

        try:
            again(fetch)
        except SourceError:
            raise
        except EOFError as error:
            raise FormatError(self.path, f"it became shorter while it was read: {error}", offset=offset) from None
        except Exception as error:  # each library has errors of its own
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> SourceError:
        return SourceError(f"cannot read {self.path}: {reason(error)}")


def _reopened(url: str, state: str) -> RemoteBacking:
    """The object that another process opened when its store said ``state`` of it.

    Raises:
        SourceError: It cannot be opened, or has changed since.
    """
    opened = RemoteBacking(url)
    if opened._state != state:
        raise SourceError(f"{url} has changed since it was opened", hint="start again, and leave the object alone")
    return opened
