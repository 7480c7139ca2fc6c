"""From a monitor's address to a socket, and who has it at the other end."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Final

from pydump.errors import SourceError

#: The highest number of a TCP port.
MAX_PORT: Final = 65535


def is_accepted(connection: socket.socket) -> bool | None:
    """Has the server taken a connection, or has it only the kernel's? None: it cannot be seen from here.

    Source: proc_net_tcp.rst; unix_seq_show in net/unix/af_unix.c: the other end of a connection has the state 2
    (SS_CONNECTING) or the inode 0 until it is accepted.
    """
    try:
        if connection.family == socket.AF_UNIX:
            name = connection.getpeername()
            lines = [line.split(None, 7) for line in Path("/proc/net/unix").read_text().splitlines()]
            states = {fields[5] for fields in lines if fields[7:] == [name]}
            return "02" not in states if states & {"02", "03"} else None
        ours, theirs = connection.getsockname()[1], connection.getpeername()[1]
        for table in ("tcp", "tcp6"):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[1].endswith(f":{theirs:04X}") and fields[2].endswith(f":{ours:04X}"):
                    return fields[9] != "0"
    except (OSError, UnicodeError):
        pass
    return None


def connected(address: str, timeout: float) -> socket.socket:
    """Connect to the path of a UNIX socket, or ``host:port``.

    Args:
        address: The monitor's address.
        timeout: Seconds that this may take.

    Raises:
        SourceError: It failed; the message says why.
    """
    host, colon, port = address.rpartition(":")
    if colon and port.isascii() and port.isdigit() and "/" not in address and not os.path.exists(address):
        if int(port) > MAX_PORT:
            raise SourceError(f"cannot connect to {address}: ports end at {MAX_PORT}", hint="qmp:HOST:PORT")
        try:
            return socket.create_connection((host.strip("[]") or "localhost", int(port)), timeout)
        except UnicodeError:  # what a name would be in the DNS
            raise SourceError(f"cannot connect to {address}: {host} is not a host name", hint="qmp:HOST:PORT") from None
        except OSError as error:
            raise SourceError(
                f"cannot connect to {address}: {error.strerror or error}",
                hint="start QEMU with -qmp tcp:HOST:PORT,server=on,wait=off",
            ) from None
    hint: str | None = "start QEMU with -qmp unix:PATH,server=on,wait=off"
    try:
        if not stat.S_ISSOCK(os.stat(address).st_mode):
            raise SourceError(f"{address} is not a socket", hint="name QEMU's QMP socket, or host:port")
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        try:
            connection.connect(address)
        except BaseException:
            connection.close()
            raise
        return connection
    except TimeoutError:
        why, hint = f"no answer in {timeout:g} s", "another client may have this monitor: give QEMU one more"
    except BlockingIOError:
        why, hint = "others wait for this monitor already", "let them go, or give QEMU one more -qmp"
    except ConnectionRefusedError:
        why = "nobody listens there: has QEMU ended?"
    except PermissionError:
        why, hint = "permission denied", "run pydump as the user that QEMU runs as"
    except ValueError as error:  # a NUL
        why = str(error)
    except OSError as error:
        why = error.strerror or str(error)
    raise SourceError(f"cannot connect to {address}: {why}", hint=hint)
