"""The connection to a stub, and the process beside this one that lets the guest go when this one ends or is killed."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydump.errors import SourceError
from pydump.process import start_watcher
from pydump.signals import put_off
from pydump_source_gdb.address import Address
from pydump_source_gdb.keeper import PERSISTENCE, Opened, let_go
from pydump_source_gdb.wire import PATIENCE, WireError

#: Bytes of a message of the keeper's.
MAX_MESSAGE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds; tests pass less.

    Attributes:
        answer: A stub may take to answer.
        close: Letting the guest go may take before this process goes on without knowing; the keeper stays at it.
        persistence: The keeper tries for so long.
    """

    answer: float = PATIENCE
    close: float = 60.0
    persistence: float = PERSISTENCE


#: What holds outside of tests.
LIMITS: Final = Limits()


class Guard:
    """A connection that lets its guest go when it is closed, in whatever way this process ends.

    Args:
        address: Where the stub is.
        after: "run", "pause" or "auto".
        limits: How long things may take.

    Attributes:
        connection: The connection.
        found: What it began with.

    Raises:
        SourceError: There is no stub, or it does not answer.
    """

    def __init__(self, address: Address, after: str, limits: Limits = LIMITS) -> None:
        self._after = after
        self._limits = limits
        self._closed = False
        self.connection = address.unconnected()
        try:
            self._start()
        except BaseException:
            self.connection.close()
            raise
        try:
            with put_off():  # the stub stops the guest now
                address.connect(self.connection)
                self._send({})
            self.found = self._opened(address)
        except BaseException:
            self._end()
            raise

    def _start(self) -> None:
        self._process, self._lifeline = start_watcher(Path(__file__).with_name("keeper.py"))
        asked = {"after": self._after, "patience": self._limits.answer, "persistence": self._limits.persistence}
        socket.send_fds(self._lifeline, [json.dumps(asked).encode()], [self.connection.fileno()])

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._lifeline.send(json.dumps(message).encode())
        except OSError:
            raise SourceError("the process that watches over the guest has ended") from None

    def _heard(self, seconds: float) -> dict[str, Any] | None:
        """What the keeper says, or None when it says nothing in time or has ended."""
        try:
            self._lifeline.settimeout(seconds)
            data = self._lifeline.recv(MAX_MESSAGE)
        except OSError:
            return None
        return dict(json.loads(data)) if data else None

    def _opened(self, address: Address) -> Opened:
        # The first words are a handful of questions.
        said = self._heard(8 * self._limits.answer)
        if said is None:
            raise SourceError(
                "the process that watches over the guest has ended", hint="the guest may be paused: look after it"
            )
        if "error" in said:
            raise SourceError(
                f"{address}: {said['error']}", hint="is another debugger connected, or is it no gdb stub?"
            )
        return Opened(**said)

    def close(self) -> None:
        """Let the guest go. It is done once.

        Raises:
            SourceError: It is not known to run, and should.
        """
        if self._closed:
            return
        with put_off():
            said = self._end()
        why = said.get("error")
        if why:
            raise SourceError(f"the guest may be paused: {why}", hint="let it run again with a debugger or its monitor")

    def _end(self) -> dict[str, Any]:
        self._closed = True
        with contextlib.suppress(OSError):
            self._lifeline.shutdown(socket.SHUT_WR)
        said = self._heard(self._limits.close)
        self._lifeline.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1 if said is None else self._limits.close)
        ended = self._process.poll()
        if ended is None:
            self._process.returncode = 0  # it goes on by itself; say nothing of it at exit
            said = said or {"error": f"the stub does not answer within {self._limits.close:g} s"}
        elif ended and said is None and hasattr(self, "found"):  # somebody has killed it
            said = {}
            try:
                let_go(self.connection, self.found, self._after, self._limits.answer, self._limits.close)
            except WireError as error:
                said = {"error": str(error)}
        self.connection.close()
        return said or {}
