"""A process of its own that undoes what was done to a guest, when the process that did it is gone.

It is run as a script whose standard input is its lifeline, a socket, and whose arguments are the fields of
:class:`Patience`. Each message that comes through the lifeline is a JSON list of commands with file descriptors beside
it, and replaces the one before: first a duplicate of the QMP connection, then the pipe that is to be drained, if there
is one. When the other end is closed, however that happens, the last list is carried out.

A command is one of QMP's, which is repeated until QEMU accepts it (or, with ``"once": true``, is not); or
``{"drain": N}``, to read from the pipe to its end, which comes within N bytes. ``cont`` is only sent where it does no
harm: see :func:`resume`.

What is at the other end of the connection may be anything. So each wait ends, and what comes is read in bounded pieces.

Nothing of pydump is imported: it has to be there at once, and to be small.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

#: Seconds between two attempts: the first, and the most that it grows to.
PAUSE, MAX_PAUSE = 0.02, 1.0
#: Bytes of a line of QMP.
MAX_LINE = 16 << 20
#: Bytes that come between a command and its answer: events, and the rest of what another process has asked for.
MAX_NOISE = 64 << 20
#: Migrations that are over, by query-migrate's status; with any other one is under way.
OVER = ("none", "completed", "failed", "cancelled")
#: The run states of a guest that somebody has stopped, and nothing has happened to it since.
STOPPED = ("paused", "save-vm", "finish-migrate", "postmigrate")
MIGRATED = "the guest has been migrated while it was held; let it run at its destination"

#: Runs a QMP command and gives QEMU's reply, with "return" or "error".
Ask = Callable[[str], dict[str, Any]]


class Patience(NamedTuple):
    """How long to stay at it, in seconds.

    Attributes:
        refused: A command other than "cont" that QEMU refuses is repeated. A stream that has lost its reader, for
            instance, ends at QEMU's next write, and only then does QEMU take other commands.
        answer: A command is sent again when no answer has come: another process may have read part of it.
        silence: QEMU is given up when it answers nothing, or sends nothing of what is drained.
        total: Everything ends, though QEMU answers but does not let the guest run.
    """

    refused: float = 30
    answer: float = 30
    silence: float = 3600
    total: float = 86400


#: Outside of tests.
PATIENCE = Patience()


class ForeignError(Exception):
    """What is at the other end is not QEMU."""


class Resumed(NamedTuple):
    """What came of an attempt to let a guest run.

    Attributes:
        done: There is nothing more to do.
        why: Why the guest was not let run; empty when it was, or runs.
        busy: Something is under way that ends.
    """

    done: bool
    why: str = ""
    busy: bool = False


def resume(ask: Ask) -> Resumed:
    """Let a guest run that we have stopped, unless somebody else has a say in it by now.

    A guest that was migrated away meanwhile runs elsewhere: here it must never run again. One that panicked or runs has
    been let run by somebody else, so its state is no work of ours.

    Args:
        ask: Runs a QMP command.

    Raises:
        ForeignError: What answers is not QEMU.
    """
    status = _text(ask("query-status"), "status", "")
    migration = _text(ask("query-migrate"), "status", "none")
    if status not in STOPPED:
        return Resumed(True)
    if migration not in OVER:
        return Resumed(False, "it is being migrated", busy=True)
    if status == "postmigrate" and migration == "completed":
        return Resumed(True, MIGRATED)
    answer = ask("cont")
    if "return" in answer:
        return Resumed(True)
    dumping = _text(ask("query-dump"), "status", "") == "active"
    return Resumed(False, _text(answer, "desc", "", within="error"), busy=dumping)


def _text(answer: dict[str, Any], key: str, default: str, within: str = "return") -> str:
    """A string in an answer."""
    value = answer.get(within, {})
    value = value.get(key, default) if isinstance(value, dict) else None
    if not isinstance(value, str):
        raise ForeignError
    return value


def main() -> None:
    """Wait for the end of the lifeline, then undo."""
    os.chdir("/")
    patience = Patience(*map(float, sys.argv[1:]))
    commands: list[dict[str, Any]] = []
    held: list[int] = []
    with socket.socket(fileno=0) as lifeline:
        while True:
            data, came, _, _ = socket.recv_fds(lifeline, 1 << 16, 2)
            if not data:
                break
            for fd in held:
                os.close(fd)
            commands, held = json.loads(data), came
    if commands:
        with socket.socket(fileno=held[0]) as connection:
            undo(connection, commands, held[1] if len(held) > 1 else -1, patience)


def undo(connection: socket.socket, commands: list[dict[str, Any]], pipe: int, patience: Patience) -> None:
    """Run the commands, one after the other.

    Args:
        connection: The QMP connection.
        commands: As above.
        pipe: What "drain" reads from.
        patience: How long.
    """
    end = time.monotonic() + patience.total
    qmp = _Qmp(connection, patience, end)
    try:
        for command in commands:
            if "drain" in command:
                _drain(pipe, command["drain"], patience, end)
            elif command["execute"] == "cont":
                _insist(partial(resume, qmp.ask), patience.total, end)  # until the guest runs: nobody else will do it
            else:
                _insist(partial(_accepted, qmp, command), patience.refused, end)
    except (OSError, EOFError, ForeignError):
        return  # QEMU is gone, or never was there


def _drain(pipe: int, limit: int, patience: Patience, end: float) -> None:
    while limit > 0 and _readable(pipe, min(time.monotonic() + patience.silence, end)):
        data = os.read(pipe, 1 << 20)
        if not data:
            return
        limit -= len(data)


def _readable(fd: int, deadline: float) -> bool:
    """Wait for something to read; the descriptor may have any number."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


def _accepted(qmp: _Qmp, command: dict[str, Any]) -> Resumed:
    answer = qmp.ask(command["execute"], command.get("arguments"))
    return Resumed("return" in answer or command.get("once", False))


def _insist(attempt: Callable[[], Resumed], patience: float, end: float) -> None:
    """Try until it is done, has been refused for ``patience`` seconds while QEMU was not busy, or the end has come."""
    deadline, pause = time.monotonic() + patience, PAUSE
    while not (came := attempt()).done:
        now = time.monotonic()
        if came.busy:
            deadline = now + patience
        if now > min(deadline, end):
            return
        time.sleep(max(0.0, min(pause, end - now)))
        pause = min(2 * pause, MAX_PAUSE)


class _Qmp:
    """The connection, whoever has used it before."""

    def __init__(self, connection: socket.socket, patience: Patience, end: float) -> None:
        self._connection = connection
        self._patience = patience
        self._end = end
        self._data = bytearray()
        self._asked = 0

    def ask(self, name: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run a command, however long QEMU takes within the patience.

        Raises:
            OSError, EOFError: QEMU has hung up, or does not answer.
            ForeignError: What answers is not QEMU.
        """
        message: dict[str, Any] = {"execute": name}
        if arguments:
            message["arguments"] = arguments
        given_up = min(time.monotonic() + self._patience.silence, self._end)
        self._noise = 0
        while (now := time.monotonic()) < given_up:
            self._asked += 1
            message["id"] = f"undo-{os.getpid()}-{self._asked}"
            self._connection.settimeout(given_up - now)
            self._connection.sendall(json.dumps(message).encode() + b"\n")
            answer = self._answer(message["id"], min(now + self._patience.answer, given_up))
            if answer is not None:
                if not isinstance(answer.get("error", {}), dict) or not answer.keys() & {"return", "error"}:
                    raise ForeignError
                return answer
        raise TimeoutError

    def _answer(self, number: str, deadline: float) -> dict[str, Any] | None:
        """The reply to a command; None when none comes: another process may have begun to read it."""
        searched, begun = 0, bool(self._data)
        while time.monotonic() < deadline:
            end = self._message_end(searched)
            if end >= 0:
                line = bytes(self._data[:end])
                del self._data[:end]
                searched, begun = 0, False
                message = _parsed(line)
                if message.get("id") == number:
                    return message
                continue
            searched = max(0, len(self._data) - 2)
            if searched > MAX_LINE or self._noise > MAX_NOISE:
                raise ForeignError
            if not _readable(self._connection.fileno(), deadline):
                break
            piece = self._connection.recv(1 << 16)
            if not piece:
                raise EOFError
            self._data += piece
            self._noise += len(piece)
        if begun:  # QEMU does not take so long over a line
            raise ForeignError
        return None

    def _message_end(self, searched: int) -> int:
        """Where the first message ends, or -1. One of a monitor of -qmp-pretty has many lines, of which the last has
        nothing but a brace that is not indented.

        Args:
            searched: Where to begin, for what is before has been searched.
        """
        pretty = self._data.startswith((b"{\n", b"{\r\n"))
        mark = b"\n}" if pretty else b"\n"
        end = self._data.find(mark, searched)
        return end + len(mark) if end >= 0 else -1


def _parsed(line: bytes) -> dict[str, Any]:
    """A message; empty for the rest of a reply that the other process had begun to read."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


if __name__ == "__main__":
    main()
