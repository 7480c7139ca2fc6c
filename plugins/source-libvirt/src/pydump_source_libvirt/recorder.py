"""A process that captures a domain and keeps what comes, and undoes what it did even if its parent is killed.

Nothing but SIGKILL ends it before it is done. If its parent dies, it undoes what it has done. If it is killed, its
parent does that, and if both are, the next pydump: the mark in QEMU says what to set back.

Its arguments are the way, libvirt's URI, the domain's UUID, the parent's process number, the two ends of a pipe for a
snapshot, and the name and the reading end of a pipe for a dump. Standard input is a socket, through which it sends its
parent a line of JSON at a time. Standard output is the file that keeps the stream.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from dataclasses import asdict, dataclass

from pydump.errors import PlanError, PydumpError
from pydump_source_libvirt.domain import RUNNING, Domain
from pydump_source_libvirt.dump import dump, head, unname
from pydump_source_libvirt.hold import hold
from pydump_source_libvirt.parent import Parent
from pydump_source_libvirt.snapshot import CannotError, snapshot
from pydump_source_libvirt.undo import recover


@dataclass(frozen=True, slots=True)
class Done:
    """How a capture went.

    Attributes:
        done: The way that was taken.
        paused: For how many seconds the guest was paused.
        warning: What the user should know, or empty.
        consistent: Whether all of memory is of the same moment.
    """

    done: str
    paused: float
    warning: str = ""
    consistent: bool = True


def record(domain: Domain, way: str, pipe: tuple[int, int], fifo: tuple[str, int], parent: Parent) -> Done:
    """Capture the domain.

    Args:
        domain: The domain.
        way: As in ``--libvirt-pause``.
        pipe: The two ends of a pipe, for a snapshot.
        fifo: The name and the reading end of a pipe, for a dump.
        parent: Keeps what comes.

    Raises:
        PydumpError: It failed. The domain is as it was, unless the error says otherwise.
    """
    parent.check()
    domain.refuse_busy()
    recover(domain)
    warning = ""
    if way == "none":
        return Done(way, head(domain, *fifo, parent), consistent=domain.state() != RUNNING)
    if way == "full":
        paused, doubt = hold(domain, fifo, parent)
        return Done(way, paused, doubt, consistent=not doubt)
    if way != "copy":
        state = domain.state()
        if way == "snapshot" and state != RUNNING:
            raise PlanError(
                f"the domain {domain.name} does not run: QEMU takes a snapshot of one that runs",
                hint="leave --libvirt-pause out",
            )
        if state == RUNNING:
            try:
                paused = snapshot(domain, pipe, parent)
            except CannotError as error:
                if way == "snapshot":
                    raise CannotError(error.message, hint="--libvirt-pause copy pauses the domain instead") from None
                warning = f"the domain is paused while its memory is copied: {error.message}"
                parent.tell(caution=warning)
            else:
                domain.await_state(RUNNING)
                parent.check()
                return Done("snapshot", paused)
    return Done("copy", dump(domain, *fifo, parent), warning)


def main() -> None:
    """Record, and say how it went."""
    way, uri, uuid, pid, *descriptors = sys.argv[1:]
    reader, writer, path, fifo = descriptors
    parent = Parent(int(pid), socket.socket(fileno=os.dup(0)), 1)
    try:
        domain = Domain(uri, uuid, events=True)
        done = record(domain, way, (int(reader), int(writer)), (path, int(fifo)), parent)
        parent.finish()
    except PydumpError as error:
        parent.tell(error=error.message, hint=error.hint, code=error.exit_code)
    else:
        parent.tell(**asdict(done))
    finally:
        unname(path)  # the parent may be gone


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    main()
