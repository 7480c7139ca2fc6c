"""What the recorder knows of the pydump that has started it, and the file that keeps a stream for it."""

from __future__ import annotations

import json
import os
import select
import socket
from typing import Any, Final

from pydump.errors import Cancelled, SourceError

#: Bytes between two lines of progress.
TOLD: Final = 16 << 20
#: Bytes that are kept at once, at most.
STEP: Final = 1 << 20
#: Zeros are not written: they are a hole of the file.
ZEROS: Final = bytes(STEP)


class Parent:
    """The process that waits for a stream.

    Args:
        pid: Its number.
        lifeline: A socket to it; its other end is closed when it has ended, or wants nothing any more.
        file: The descriptor of the file that keeps the stream.
    """

    def __init__(self, pid: int, lifeline: socket.socket, file: int) -> None:
        self.pid = pid
        self._socket = lifeline
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._file = file
        self._kept = self._told = 0
        self._fault: OSError | None = None

    @property
    def waits(self) -> bool:
        """Whether it lives and there is room for more. It never says anything, so what can be read is its end."""
        return self._fault is None and not self._poll.poll(0)

    def fileno(self) -> int:
        """A descriptor that can be read when it has ended."""
        return self._socket.fileno()

    def check(self) -> None:
        """Fail if nobody waits any more.

        Raises:
            Cancelled: The parent is gone.
            SourceError: There was no room.
        """
        if self._fault is not None:
            raise SourceError(
                f"cannot keep the memory of the domain: {self._fault.strerror}", hint="TMPDIR names another directory"
            )
        if not self.waits:
            raise Cancelled("the parent process is gone")

    def tell(self, **line: Any) -> None:
        """Send the parent a line of JSON."""
        try:
            self._socket.sendall(json.dumps(line).encode() + b"\n")
        except OSError:  # it is gone, which shows when it is asked for
            return

    def keep(self, data: memoryview) -> None:
        """Keep what came, unless nobody waits for it."""
        if not self.waits:
            return
        size = len(data)
        try:
            if bytes(data) == ZEROS[:size]:
                os.lseek(self._file, size, os.SEEK_CUR)
            else:
                while data:
                    data = data[os.write(self._file, data) :]
            self._kept += size
        except OSError as error:
            self._fault = error
        if self._kept - self._told >= TOLD:
            self._told = self._kept
            self.tell(kept=self._kept)

    def finish(self) -> None:
        """The file ends here, even if zeros are at its end."""
        os.ftruncate(self._file, self._kept)
