"""A process of its own that undoes what was done to a guest, when the process that did it is gone.

It is run as a script, ``python watchdog.py SOCKET LIFELINE``, with two inherited file descriptors: a duplicate of the
QMP connection, and the reading end of a pipe. Each line that comes through the pipe is a JSON list of commands, and
replaces the one before. When the other end of the pipe is closed, however that happens, the last list is carried out.

A command is one of QMP's, which is repeated until QEMU accepts it (or, with ``"once": true``, is not); or
``{"drain": FD}``, to read from an inherited file descriptor to its end.

Nothing of pydump is imported: it has to be there at once, and to be small.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from typing import Any

#: Seconds after which a command that QEMU refuses is given up. A stream that has lost its reader, for instance, ends at
#: QEMU's next write, and only then does it take other commands.
PATIENCE = 30
#: Seconds between two attempts.
PAUSE = 0.02


def main() -> None:
    """Wait for the end of the lifeline, then undo."""
    connection, lifeline = int(sys.argv[1]), int(sys.argv[2])
    data = b""
    while piece := os.read(lifeline, 65536):
        data += piece
        whole, end, rest = data.rpartition(b"\n")
        data = whole.rpartition(b"\n")[2] + end + rest
    last = data.rpartition(b"\n")[0]
    commands: list[dict[str, Any]] = json.loads(last) if last else []
    if commands:
        with socket.socket(fileno=connection) as qmp:
            undo(qmp, commands)


def undo(qmp: socket.socket, commands: list[dict[str, Any]]) -> None:
    """Run the commands, one after the other."""
    replies = _Replies(qmp)
    for number, command in enumerate(commands):
        if "drain" in command:
            while os.read(command["drain"], 1 << 20):
                pass
            continue
        once = command.pop("once", False)
        deadline = time.monotonic() + PATIENCE
        for attempt in range(1 << 30):
            name = f"pydump-undo-{number}-{attempt}"
            try:
                qmp.setblocking(True)
                qmp.sendall(json.dumps({**command, "id": name}).encode() + b"\n")
                answer = replies.get(name, deadline)
            except OSError:
                return  # QEMU is gone
            if answer is None:
                return
            if "return" in answer or once or time.monotonic() > deadline:
                break
            time.sleep(PAUSE)


class _Replies:
    def __init__(self, qmp: socket.socket) -> None:
        self._qmp = qmp
        self._rest = b""

    def get(self, name: str, deadline: float) -> dict[str, Any] | None:
        """The reply to the command that was sent as ``name``; None when QEMU has hung up or is silent."""
        while True:
            line, end, rest = self._rest.partition(b"\n")
            if end:
                self._rest = rest
                try:
                    message = json.loads(line)
                except ValueError:
                    continue  # the rest of a reply that the other process had begun to read
                if isinstance(message, dict) and message.get("id") == name:
                    return message
                continue
            if not select.select([self._qmp], [], [], max(0, deadline - time.monotonic()))[0]:
                return None
            piece = self._qmp.recv(1 << 16)
            if not piece:
                return None
            self._rest += piece


if __name__ == "__main__":
    main()
