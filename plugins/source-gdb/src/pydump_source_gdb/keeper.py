"""A process of its own that finds out whether a guest ran, and lets it run again: also when pydump was killed.

A stub stops its guest when somebody connects, and QEMU's leaves it stopped when the connection closes. So whoever is to
let the guest run has the connection before it is made. This process gets the socket first, as a descriptor beside the
first message on its standard input, a socket as well. The steps, each a message:

1. ``{"after": "auto", "patience": 30, "persistence": 3600}`` and the socket, which is not connected yet.
2. ``{}``: it is connected. The answer is what :func:`opened` found, as JSON, or ``{"error": …}``.
3. The end of the messages, however it came: the guest is let go. The answer is ``{"error": …}`` or ``{}``.

Nothing of pydump is imported but :mod:`wire`: it has to be there at once, and to be small.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if __name__ != "__main__":
    from pydump_source_gdb.wire import MAX_NOISE, STOP_REPLY, DamagedError, SilentError, Wire, WireError, framed
else:  # run as a script, it has its folder to itself
    sys.path.append(str(Path(__file__).parent))
    from wire import (  # type: ignore[import-not-found, no-redef]
        MAX_NOISE,
        STOP_REPLY,
        DamagedError,
        SilentError,
        Wire,
        WireError,
        framed,
    )

#: What we say that we can do; the answer is what the stub can do. It is harmless, so that it can be repeated.
HELLO = b"qSupported:xmlRegisters=i386"
#: Stop replies and output that may come before the answer to a question.
MAX_UNASKED = 1 << 10
#: Bytes of output of QEMU's monitor.
MAX_OUTPUT = 8 << 20
#: Seconds that letting the guest run is tried for: nobody else will do it.
PERSISTENCE = 3600.0
#: What OpenOCD's monitor prints for "version" begins with this.
OPENOCD = "Open On-Chip Debugger"
#: Clusters of CPUs of a machine. QEMU's have up to a handful.
MAX_CLUSTERS = 64
#: QEMU before this version sends a stop reply when a connection stops the guest, and none when it was stopped already.
QUIET_SINCE = (8, 1)


@dataclass(frozen=True)
class Opened:
    """What the first words with a stub gave.

    Attributes:
        features: The answer to :data:`HELLO`.
        acks: Whether packets are acknowledged.
        physical: QEMU's mode of physical memory as it was, 0 or 1; None for a stub without one.
        ran: Whether the guest ran before; None where the stub does not say.
        state: What QEMU calls the state of a guest that did not run.
        openocd: Whether it is OpenOCD's.
        clusters: How many clusters of CPUs the connection has, QEMU's processes 1 to so many.
    """

    features: str
    acks: bool
    physical: int | None
    ran: bool | None
    state: str = ""
    openocd: bool = False
    clusters: int = 1


def opened(wire: Wire) -> Opened:
    """The first words with a stub. They change nothing but the acknowledgments.

    Raises:
        WireError: It is not a stub, or does not answer.
    """
    stopped = False
    wire.send(framed(HELLO))
    for _ in range(MAX_UNASKED):
        answer = wire.receive(again=framed(HELLO))
        if not STOP_REPLY.match(answer):
            break
        stopped = True
    else:
        raise WireError("the stub sends stop replies without end")
    features = answer.decode("latin-1")
    if "QStartNoAckMode+" in features.split(";") and wire.ask(b"QStartNoAckMode") == b"OK":
        wire.acks = False
    mode = wire.ask(b"qqemu.PhyMemMode")
    physical = int(mode) if mode in (b"0", b"1") else None
    if physical is None and (monitor(wire, "version") or "").startswith(OPENOCD):
        return Opened(features, wire.acks, physical, None, openocd=True)
    ran, state = (True, "") if stopped else _state(wire)
    return Opened(features, wire.acks, physical, ran, state, clusters=_attach_clusters(wire, physical))


def _attach_clusters(wire: Wire, physical: int | None) -> int:
    """Attach to all clusters of CPUs of a QEMU; a new connection has the first one. The number of them is returned.

    Source: "Debugging multicore machines" in docs/system/gdb.rst of QEMU, and handle_v_attach in its gdbstub.
    """
    count = 1
    while physical is not None and count < MAX_CLUSTERS and STOP_REPLY.match(wire.ask(b"vAttach;%x" % (count + 1))):
        count += 1
    if count > 1:
        # QEMU lets the second one go only if it was told to expect several. It remembers that, as after any gdb.
        wire.ask(HELLO + b";multiprocess+")
    return count


def _state(wire: Wire) -> tuple[bool | None, str]:
    """Whether the guest ran, by QEMU's monitor, and the state that a guest which did not run is in.

    A guest that the connection has paused and one that was paused before look the same in it. Every other state is
    older than the connection. Source: gdb_chr_event and gdb_vm_state_change of QEMU's gdbstub; hmp_info_status.
    """
    match = re.search(r"VM status: paused(?: \(([\w-]+)\))?", monitor(wire, "info status") or "")
    if match is None:
        return None, ""
    if match[1]:
        return False, match[1]
    version = re.match(r"\s*(\d+)\.(\d+)", monitor(wire, "info version") or "")
    if version and (int(version[1]), int(version[2])) < QUIET_SINCE:
        return False, "paused"
    return None, ""


def monitor(wire: Wire, command: str) -> str | None:
    """What a command of the stub's monitor prints, or None where there is no such command.

    Raises:
        WireError: The stub does not answer, or does not end.
    """
    wire.send(framed(b"qRcmd," + command.encode().hex().encode()))
    output = bytearray()
    while len(output) <= MAX_OUTPUT:
        answer = wire.receive()
        if answer[:1] == b"O" and answer != b"OK":
            output += _bytes(answer[1:])
        elif answer == b"OK":
            return output.decode("utf-8", "replace")
        elif not answer or answer[:1] == b"E":
            return None
        else:
            output += _bytes(answer)
            return output.decode("utf-8", "replace")
    raise WireError(f"the stub's monitor prints more than {MAX_OUTPUT >> 20} MiB")


def _bytes(text: bytes) -> bytes:
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError:
        raise WireError("the stub's monitor prints what is not hexadecimal") from None


def let_go(connection: socket.socket, found: Opened, after: str, patience: float, persistence: float) -> None:
    """Put back what was set, and let the guest run if it ran. Nothing may be sent afterwards: it would stop the guest.

    Args:
        connection: The connection, whatever was asked and not read yet, or sent in part.
        found: What it began with.
        after: "run" or "pause" where the user has decided, else "auto".
        patience: Seconds for one answer.
        persistence: Seconds for everything.

    Raises:
        WireError: The guest may be stopped.
    """
    wire = Wire(connection, acks=found.acks, patience=patience)
    _in_step(wire, found, time.monotonic() + persistence)
    if found.physical == 0 and wire.ask(b"Qqemu.PhyMemMode:0") != b"OK":
        raise WireError("the stub does not leave the mode of physical memory")
    if not runs_after(found, after):
        return
    if found.physical is None:
        wire.ask(b"Hg0")  # gdbserver detaches from nothing while no CPU is the current one
    # QEMU takes the number of a process whether it was told to expect several or not, and needs it if it was once.
    # The guest runs when the last one is detached.
    for question in [b"D"] if found.physical is None else [b"D;%x" % (i + 1) for i in range(found.clusters)]:
        answer = wire.ask(question)
        if answer != b"OK":
            raise WireError(f"the stub does not let the guest go: it answers {answer[:16]!r}")
    if found.openocd:
        _resume(wire)


def _resume(wire: Wire) -> None:
    """Have OpenOCD's target run. OpenOCD leaves it halted when a debugger detaches, unless its configuration says more.

    Source: gdb_detach in src/server/gdb_server.c of OpenOCD, and its manual, "Target Events".
    """
    state = "[target current] curstate"
    if (monitor(wire, state) or "").strip() == "halted":
        monitor(wire, "resume")
        monitor(wire, "poll")
    now = (monitor(wire, state) or "").strip()
    if now != "running":
        raise WireError(f"OpenOCD says that the target is {now or 'in no known state'}")


def runs_after(found: Opened, after: str) -> bool:
    """Whether the guest is let run: as it did before, and where nobody knows, it is."""
    return after == "run" if after != "auto" else found.ran is not False


def _in_step(wire: Wire, found: Opened, end: float) -> None:
    """Read until an answer is the one to what was asked last. Of QEMU's, many may be on their way.

    Raises:
        WireError: It does not come.
    """
    # The end of a packet that was sent in part, with a checksum that is wrong. Between packets it is nothing.
    wire.send(b"#00")
    features = found.features.encode("latin-1")
    while True:
        wire.send(framed(HELLO))
        noise = 0
        try:
            while noise < MAX_NOISE:
                try:
                    answer = wire.receive(one_of_many=found.physical is not None)
                except DamagedError:
                    noise += 1 << 10
                    continue
                if answer == features:
                    return
                noise += len(answer) + 1
            raise WireError("what answers is not a gdb stub")
        except SilentError:
            if time.monotonic() > end:
                raise


def main() -> None:
    """Wait for the connection, say what it began with, wait for the end of the messages, and let the guest go."""
    os.chdir("/")
    with socket.socket(fileno=0) as lifeline:
        data, fds, _, _ = socket.recv_fds(lifeline, 1 << 16, 1)
        if not fds:
            return
        asked = json.loads(data)
        with socket.socket(fileno=fds[0]) as connection:
            going = _goes_on(lifeline)
            found = why = None
            if going or _is_connected(connection):
                try:
                    found = opened(Wire(connection, patience=asked["patience"]))
                except WireError as error:
                    why = str(error)
                    if isinstance(error, SilentError) and asked["after"] != "pause":
                        # Another debugger may be connected, and our turn comes when we are gone: so the guest is let
                        # go by what is in the queue already.
                        _say(connection, framed(b"D;1"))
                _tell(lifeline, asdict(found) if found else {"error": why})
                while _goes_on(lifeline):
                    pass
            if found is None:
                return
            try:
                let_go(connection, found, asked["after"], asked["patience"], asked["persistence"])
            except WireError as error:
                why = str(error)
            _tell(lifeline, {"error": why} if why else {})


def _goes_on(lifeline: socket.socket) -> bool:
    """Wait for a message; False where there is no more. Who is killed before it has read our answer resets the line."""
    try:
        return bool(lifeline.recv(1 << 16))
    except OSError:
        return False


def _is_connected(connection: socket.socket) -> bool:
    try:
        connection.getpeername()
    except OSError:
        return False
    return True


def _say(connection: socket.socket, data: bytes) -> None:
    with contextlib.suppress(WireError):
        Wire(connection).send(data)


def _tell(lifeline: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # nobody may be there to hear it
        lifeline.send(json.dumps(message).encode())


if __name__ == "__main__":
    main()
