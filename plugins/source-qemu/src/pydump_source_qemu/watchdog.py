"""A process of its own that undoes what was done to a guest, when the process that did it is gone.

It is run as a script whose standard input is its lifeline, a socket. Each message that comes through it is a JSON list
of commands with file descriptors beside it, and replaces the one before: first a duplicate of the QMP connection, then
the pipe that is to be drained, if there is one. When the other end is closed, however that happens, the last list is
carried out.

A command is one of QMP's, which is repeated until QEMU accepts it (or, with ``"once": true``, is not); or
``{"drain": true}``, to read from the pipe to its end. ``cont`` is only sent where it does no harm: see :func:`resume`.

Nothing of pydump is imported: it has to be there at once, and to be small.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

#: Seconds after which a command that QEMU refuses is given up. A stream that has lost its reader, for instance, ends at
#: QEMU's next write, and only then does it take other commands.
PATIENCE = 30
#: Seconds between two attempts: the first, and the most that it grows to.
PAUSE, MAX_PAUSE = 0.02, 1.0
#: Migrations that are over, by query-migrate's status; with any other one is under way.
OVER = ("none", "completed", "failed", "cancelled")
#: The run states of a guest that somebody has stopped, and nothing has happened to it since.
STOPPED = ("paused", "save-vm", "finish-migrate", "postmigrate")
MIGRATED = "the guest has been migrated while it was held; let it run at its destination"

#: Runs a QMP command and gives QEMU's reply, with "return" or "error".
Ask = Callable[[str], dict[str, Any]]


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
    """
    status = ask("query-status").get("return", {}).get("status", "")
    migration = ask("query-migrate").get("return", {}).get("status", "none")
    if status not in STOPPED:
        return Resumed(True)
    if migration not in OVER:
        return Resumed(False, "it is being migrated", busy=True)
    if status == "postmigrate" and migration == "completed":
        return Resumed(True, MIGRATED)
    answer = ask("cont")
    if "return" in answer:
        return Resumed(True)
    dumping = ask("query-dump").get("return", {}).get("status") == "active"
    return Resumed(False, str(answer["error"].get("desc")), busy=dumping)


def main() -> None:
    """Wait for the end of the lifeline, then undo."""
    os.chdir("/")
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
            undo(connection, commands, held[1] if len(held) > 1 else -1)


def undo(connection: socket.socket, commands: list[dict[str, Any]], pipe: int) -> None:
    """Run the commands, one after the other.

    Args:
        connection: The QMP connection.
        commands: As above.
        pipe: What "drain" reads from.
    """
    qmp = _Qmp(connection)
    try:
        for command in commands:
            if "drain" in command:
                while os.read(pipe, 1 << 20):
                    pass
            elif command["execute"] == "cont":
                _insist(partial(resume, qmp.ask))  # until the guest runs: nobody else will do it
            else:
                _insist(partial(_accepted, qmp, command), PATIENCE)
    except (OSError, EOFError):
        return  # QEMU is gone


def _accepted(qmp: _Qmp, command: dict[str, Any]) -> Resumed:
    answer = qmp.ask(command["execute"], command.get("arguments"))
    return Resumed("return" in answer or command.get("once", False))


def _insist(attempt: Callable[[], Resumed], patience: float = float("inf")) -> None:
    """Try until it is done, or has been refused for ``patience`` seconds while QEMU was not busy."""
    deadline, pause = time.monotonic() + patience, PAUSE
    while not (came := attempt()).done:
        if came.busy:
            deadline = time.monotonic() + patience
        elif time.monotonic() > deadline:
            return
        time.sleep(pause)
        pause = min(2 * pause, MAX_PAUSE)


class _Qmp:
    """The connection, whoever has used it before."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._connection.setblocking(True)
        self._rest = b""
        self._asked = 0

    def ask(self, name: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run a command, however long QEMU takes.

        Raises:
            OSError, EOFError: QEMU has hung up.
        """
        message: dict[str, Any] = {"execute": name}
        if arguments:
            message["arguments"] = arguments
        while True:
            self._asked += 1
            message["id"] = f"undo-{os.getpid()}-{self._asked}"
            self._connection.sendall(json.dumps(message).encode() + b"\n")
            answer = self._answer(message["id"])
            if answer is not None:
                return answer

    def _answer(self, number: str) -> dict[str, Any] | None:
        """The reply to a command; None when none comes: another process may have begun to read it."""
        deadline = time.monotonic() + PATIENCE
        while True:
            line, end, rest = self._rest.partition(b"\n")
            if end and line.rstrip() == b"{":  # of a monitor made with -qmp-pretty: its last line is not indented
                body, end, rest = rest.partition(b"\n}")
                line += body + end
            if end:
                self._rest = rest
                try:
                    message = json.loads(line)
                except ValueError:
                    continue  # the rest of a reply that the other process had begun to read
                if isinstance(message, dict) and message.get("id") == number:
                    return message
                continue
            if not select.select([self._connection], [], [], max(0, deadline - time.monotonic()))[0]:
                return None
            piece = self._connection.recv(1 << 16)
            if not piece:
                raise EOFError
            self._rest += piece


if __name__ == "__main__":
    main()
