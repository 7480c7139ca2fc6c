"""Where a stub is: ``HOST:PORT``, or the path of a UNIX socket."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydump.errors import PlanError, SourceError

#: The highest number of a TCP port.
MAX_PORT: Final = 65535
#: Seconds that a stub may take to notice that the one before has left.
TURN: Final = 1.0
_HINT: Final = "gdb:HOST:PORT or gdb:/path/to.sock; QEMU has a stub with -gdb tcp:127.0.0.1:1234"


@dataclass(frozen=True, slots=True)
class Address:
    """An address that has been looked up.

    Attributes:
        text: As the user wrote it.
        family: Of the socket.
        target: What the socket connects to: a path, or an address and a port.
    """

    text: str
    family: socket.AddressFamily
    target: str | tuple[str, int]

    @classmethod
    def of(cls, text: str) -> Address:
        """Look up what the user wrote.

        Raises:
            PlanError: It is not an address.
            SourceError: There is no such host or socket.
        """
        if not text:
            raise PlanError("gdb: does not name a stub", hint=_HINT)
        host, colon, port = text.rpartition(":")
        if colon and port.isascii() and port.isdigit() and "/" not in text and not os.path.exists(text):
            if int(port) > MAX_PORT:
                raise PlanError(f"gdb:{text}: ports end at {MAX_PORT}", hint=_HINT)
            try:
                found = socket.getaddrinfo(host.strip("[]") or "localhost", int(port), type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                raise SourceError(f"cannot find the host of gdb:{text}: {error}", hint=_HINT) from None
            # A stub listens on one address; of a name with two, IPv4 is the one that QEMU and others take.
            family, _, _, _, target = min(found, key=lambda one: one[0] != socket.AF_INET)
            return cls(text, family, (str(target[0]), int(target[1])))
        try:
            if not stat.S_ISSOCK(os.stat(text).st_mode):
                raise SourceError(f"{text} is not a socket", hint=_HINT)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise SourceError(f"cannot connect to {text}: {why}", hint=_HINT) from None
        return cls(text, socket.AF_UNIX, text)

    def __str__(self) -> str:
        return f"gdb:{self.text}"

    def unconnected(self) -> socket.socket:
        """A socket that is not connected yet."""
        return socket.socket(self.family, socket.SOCK_STREAM)

    def connect(self, connection: socket.socket, timeout: float = 10.0) -> None:
        """Connect.

        Raises:
            SourceError: It failed, or another debugger is connected.
        """
        turn = time.monotonic() + TURN
        while self._is_taken():
            if time.monotonic() > turn:
                raise SourceError(f"{self} has another debugger", hint="detach it first")
            time.sleep(0.02)
        try:
            connection.settimeout(timeout)
            connection.connect(self.target)
            if self.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except TimeoutError:
            raise SourceError(f"cannot connect to {self}: no answer in {timeout:g} s") from None
        except OSError as error:
            raise SourceError(f"cannot connect to {self}: {error.strerror}", hint=_HINT) from None

    def _is_taken(self) -> bool:
        """Whether a stub on this host has a connection. It would take ours when that one ends, and stop the guest.

        Source: Documentation/networking/proc_net_tcp.rst (state 1 is TCP_ESTABLISHED); unix_seq_show in
        net/unix/af_unix.c (state 3 is SS_CONNECTED) of Linux.
        """
        with contextlib.suppress(OSError, UnicodeError, IndexError):
            if isinstance(self.target, str):
                lines = [line.split(None, 7) for line in Path("/proc/net/unix").read_text().splitlines()]
                return any(fields[5] == "03" and fields[7:] == [self.target] for fields in lines)
            address, port = self.target
            if not address.startswith("127.") and address != "::1":
                return False
            table = Path("/proc/net", "tcp6" if ":" in address else "tcp").read_text().splitlines()[1:]
            return any(fields[1].endswith(f":{port:04X}") and fields[3] == "01" for fields in map(str.split, table))
        return False
