"""Lets a guest go whose gdb stub was taken for its monitor.

QEMU's stub pauses the guest as soon as somebody connects, and closing the connection does not let it run again: only a
packet does. Source: gdb_chr_event and handle_detach in gdbstub of QEMU; GDB manual, "GDB Remote Serial Protocol".
"""

from __future__ import annotations

import re
import socket
import time
from typing import Final

#: Seconds in which a stub answers. It pauses the guest meanwhile.
PATIENCE: Final = 5.0
#: Bytes of answers that are read.
MAX_ANSWERS: Final = 1 << 16
#: What a stub says before it is asked: the guest has stopped, and so it ran. QEMU 8.1 and later say nothing.
STOPPED: Final = re.compile(rb"\+*\$[TS][0-9a-fA-F]{2}")
#: QEMU before this version says nothing only of a guest that did not run.
QUIET_SINCE: Final = (8, 1)


def is_stop(head: bytes) -> bool:
    """Whether the first bytes of a connection are a gdb stub's."""
    return STOPPED.match(head) is not None


def let_go(connection: socket.socket) -> str | None:
    """Detach from a gdb stub, so that its guest runs if it ran.

    Args:
        connection: A connected socket; nothing was sent yet.

    Returns:
        What has become of the guest, as part of a message; None where no gdb stub answers.
    """
    said = bytearray()

    def ask(payload: bytes, answer: bytes) -> re.Match[bytes] | None:
        """Send a packet, and wait for an answer of that kind."""
        connection.sendall(b"+$%b#%02x" % (payload, sum(payload) & 0xFF))
        end = time.monotonic() + PATIENCE
        start = len(said)
        while len(said) < MAX_ANSWERS:
            if found := re.compile(answer).search(said, start):
                return found
            connection.settimeout(max(0.01, end - time.monotonic()))
            data = connection.recv(1 << 12)
            if not data:
                break
            said.extend(data)
        return None

    def monitor(command: bytes) -> str:
        """What QEMU's monitor prints, which comes in packets of hexadecimal digits."""
        found = ask(b"qRcmd," + command.hex().encode(), rb"(?s)(.*)\$OK#9a")
        pieces = re.findall(rb"\$O((?:[0-9a-f]{2})+)#", found[1]) if found else []
        return bytes.fromhex(b"".join(pieces).decode()).decode("utf-8", "replace")

    try:
        if not ask(b"qSupported", rb"\+\$[^#]*=[^#]*#.."):
            return None
        ran = STOPPED.search(said) is not None
        state = re.search(r"VM status: paused(?: \(([\w-]+)\))?", monitor(b"info status"))
        version = re.match(r"\s*(\d+)\.(\d+)", monitor(b"info version"))
        old = version is not None and (int(version[1]), int(version[2])) < QUIET_SINCE
        if not ran and state and (state[1] or old):
            return "its guest stays as it was"
        return "its guest runs" if ask(b"D", rb"\$OK#9a") else "its guest may be paused, and cont lets it run"
    except OSError:
        return "its guest may be paused, and cont lets it run" if b"$" in said else None
