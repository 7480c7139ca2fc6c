"""A QMP connection, used for one command at a time.

Source: docs/interop/qmp-spec.rst and qapi/*.json of QEMU.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import select
import socket
import stat
import struct
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from qemu.qmp import ConnectError, ExecuteError, Message, QMPClient, QMPError
from qemu.qmp.qmp_client import GreetingError, NegotiationError

from pydump.errors import SourceError
from pydump.signals import put_off

T = TypeVar("T")

#: Seconds that QEMU may take to answer a command.
COMMAND_TIMEOUT: Final = 60
#: The highest number of a TCP port.
MAX_PORT: Final = 65535
#: Seconds after which a signal that came during a command is looked at.
SLICE: Final = 0.1
#: What every capture needs.
NEEDED: Final = ("query-status", "stop", "cont", "dump-guest-memory", "query-dump")
#: The id of a command whose reply is dropped.
POSTED: Final = "posted"
NO_QMP: Final = "it takes a monitor made with -qmp, not QEMU's human one or another server"


class CommandError(SourceError):
    """QEMU refused a command.

    Attributes:
        command: Its name.
        why: What QEMU said.
    """

    def __init__(self, command: str, why: str, *, hint: str | None = None) -> None:
        super().__init__(f"QEMU refused {command}: {why}", hint=hint)
        self.command = command
        self.why = why


class _Client(QMPClient):
    """The library's client, for monitors of -qmp-pretty as well."""

    async def _readline(self) -> bytes:
        """A whole message. Where it has many lines, all but the first and the last are indented.

        Source: qobject_to_json_pretty in qobject/qjson.c.
        """
        line = await super()._readline()
        if line.rstrip() != b"{":
            return line
        lines = [line]
        while lines[-1].rstrip() != b"}":
            lines.append(await super()._readline())
        return b" ".join(line.strip() for line in lines)

    async def _on_message(self, msg: Message) -> None:
        if msg.get("id") != POSTED:
            await super()._on_message(msg)


class Monitor:
    """A connection to a QMP server.

    Attributes:
        address: What the user called it.
        socket: The connected socket.
        version: QEMU's, as "7.2.22".
    """

    def __init__(self, address: str, connected: socket.socket, timeout: float, deadline: float) -> None:
        self.address = address
        self.socket = connected
        self.socket.setblocking(False)
        self.version = ""
        # The library reports a lost connection to its logger as well as by an exception; the exception does.
        logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._client = _Client()
        self._paused = 0.0
        self._stopped_at: float | None = None
        #: How often the guest began to run.
        self.resumes = 0
        try:
            self._greet(timeout, deadline)
        except BaseException:
            self.close()
            raise

    @classmethod
    def connect(cls, address: str, timeout: float) -> Self:
        """Connect and shake hands.

        Args:
            address: The path of a UNIX socket, or ``host:port``.
            timeout: Seconds that this may take.

        Raises:
            SourceError: It failed; the message says why.
        """
        deadline = time.monotonic() + timeout
        return cls(address, _connected(address, timeout), timeout, deadline)

    def _greet(self, timeout: float, deadline: float) -> None:
        if not select.select([self.socket], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise self._silent(timeout)
        try:
            self._run(self._client.connect(self.socket), deadline)
        except (ConnectError, QMPError, TimeoutError) as error:
            cause = error.exc if isinstance(error, ConnectError) else error
            if isinstance(cause, EOFError | ConnectionError):
                why = f"{self.address} hung up without a word"
            elif isinstance(cause, GreetingError | NegotiationError | TimeoutError | ValueError):  # or endless
                why = f"{self.address} does not speak QMP"
            else:
                why = f"{self.address}: {cause}"
            raise SourceError(why, hint=NO_QMP) from None
        greeting = self._client.greeting
        with contextlib.suppress(AttributeError, KeyError, TypeError):
            version: Any = greeting.QMP.version  # type: ignore[union-attr]  # None counts among what is suppressed
            self.version = "{major}.{minor}.{micro}".format(**version["qemu"])
        try:
            known = {entry["name"] for entry in self._execute("query-commands", {}, timeout, deadline)}
        except (CommandError, KeyError, TypeError):
            known = set()
        missing = [name for name in NEEDED if name not in known]
        if missing:
            raise SourceError(
                f"{self.address} is no QEMU that can be dumped: it has no {', '.join(missing)}",
                hint="connect to the monitor of a virtual machine",
            )

    def _silent(self, timeout: float) -> SourceError:
        """Nobody speaks: QEMU leaves a second client waiting, another server takes it and says nothing."""
        accepted = _is_accepted(self.socket)
        if accepted:
            return SourceError(f"{self.address} says nothing in {timeout:g} s: it is no QMP monitor", hint=NO_QMP)
        why = "another client has this monitor" + ("" if accepted is False else ", or it is none of QMP")
        return SourceError(
            f"{self.address} says nothing in {timeout:g} s: {why}",
            hint="let the other client go, or give QEMU one more: -qmp unix:PATH,server=on,wait=off",
        )

    @property
    def local(self) -> bool:
        """Is it a UNIX socket, which file descriptors can be passed through?"""
        return self.socket.family == socket.AF_UNIX

    @property
    def pid(self) -> int:
        """The process at the other end, or 0 where that is not known."""
        if not self.local:
            return 0
        data = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", data)[0])

    def command(self, name: str, **arguments: Any) -> Any:
        """Run a command and give what it returns.

        Args:
            name: The command.
            arguments: Its arguments, with underscores where QMP has dashes.

        Raises:
            CommandError: QEMU refused it.
            SourceError: QEMU is gone, or does not answer.
        """
        return self._execute(name, arguments, COMMAND_TIMEOUT, time.monotonic() + COMMAND_TIMEOUT)

    def _execute(self, name: str, arguments: dict[str, Any], timeout: float, deadline: float) -> Any:
        self._own()
        if self._loop.is_closed():
            raise SourceError(f"the connection to {self.address} is closed")
        message = {key.replace("_", "-"): value for key, value in arguments.items()}
        try:
            return self._run(self._client.execute(name, message or None), deadline)
        except ExecuteError as error:
            raise CommandError(name, str(error)) from None
        except TimeoutError:
            raise SourceError(f"QEMU has not answered {name} in {timeout:g} s") from None
        except (QMPError, OSError, EOFError) as error:
            raise SourceError(f"the connection to QEMU broke at {name}: did QEMU end?") from error

    def _own(self) -> None:
        if os.getpid() != self._pid:
            raise SourceError(
                f"the connection to {self.address} belongs to another process",
                hint="capture the guest before you fork: Source.capture",
            )

    def human(self, line: str) -> str:
        """Run a command of the human monitor and give what it prints.

        Raises:
            SourceError: As for :meth:`command`.
        """
        return str(self.command("human-monitor-command", command_line=line)).replace("\r\n", "\n")

    def post(self, name: str) -> None:
        """Send a command without waiting for QEMU to carry it out; its reply is dropped.

        Args:
            name: A command without arguments.
        """
        self._own()
        with contextlib.suppress(OSError):  # QEMU is gone: the next command says so
            self.socket.send(json.dumps({"execute": name, "id": POSTED}).encode() + b"\n")

    def pass_fd(self, fd: int, name: str) -> None:
        """Give QEMU a file descriptor that it will know as ``name``.

        Raises:
            SourceError: As for :meth:`command`.
        """
        try:
            self._client.send_fd_scm(fd)
        except (QMPError, OSError) as error:
            raise SourceError(f"cannot pass a file descriptor to QEMU: {error}") from None
        self.command("getfd", fdname=name)

    @property
    def paused_seconds(self) -> float:
        """How long the guest has stood still since we connected, by QEMU's own clock."""
        self._note_events()
        running_up = time.time() - self._stopped_at if self._stopped_at is not None else 0
        return self._paused + max(0.0, running_up)

    def settle(self) -> None:
        """Take in the events that QEMU has sent.

        Raises:
            SourceError: QEMU is gone.
        """
        self.command("query-status")
        self._note_events()

    def _note_events(self) -> None:
        for event in self._client.events.clear():
            stamp = event["timestamp"]
            at = stamp["seconds"] + stamp["microseconds"] / 1e6  # type: ignore[index]
            if event["event"] == "STOP" and self._stopped_at is None:
                self._stopped_at = at
            elif event["event"] in ("RESUME", "WAKEUP"):  # a guest that wakes from S3 sends only the latter
                self.resumes += 1
                if self._stopped_at is not None:
                    self._paused += at - self._stopped_at
                    self._stopped_at = None

    def _run(self, work: Coroutine[Any, Any, T], deadline: float) -> T:
        """Drive the connection until ``work`` is done, or by the monotonic clock the ``deadline`` is past.

        Signals wait meanwhile: an exception that a handler raises within the library would break the connection.
        """
        task = self._loop.create_task(work)
        try:
            while not task.done():
                with put_off():
                    self._loop.run_until_complete(asyncio.wait({task}, timeout=SLICE))
                if time.monotonic() > deadline and not task.done():
                    raise TimeoutError
        except BaseException:
            task.add_done_callback(lambda abandoned: abandoned.cancelled() or abandoned.exception())
            raise
        return task.result()

    def close(self) -> None:
        """Hang up."""
        if self._loop.is_closed():
            return

        async def leave() -> None:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._client.disconnect(), 1)
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        with put_off():
            self._loop.run_until_complete(leave())
            self._loop.close()
            self.socket.close()


def _is_accepted(connection: socket.socket) -> bool | None:
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


def _connected(address: str, timeout: float) -> socket.socket:
    host, colon, port = address.rpartition(":")
    if colon and port.isascii() and port.isdigit() and "/" not in address and not os.path.exists(address):
        if int(port) > MAX_PORT:
            raise SourceError(f"cannot connect to {address}: ports end at {MAX_PORT}", hint="qmp:HOST:PORT")
        try:
            return socket.create_connection((host.strip("[]") or "localhost", int(port)), timeout)
        except UnicodeError:  # what a name would be in the DNS
            raise SourceError(f"cannot connect to {address}: {host} is no host name", hint="qmp:HOST:PORT") from None
        except OSError as error:
            raise SourceError(
                f"cannot connect to {address}: {error.strerror or error}",
                hint="start QEMU with -qmp tcp:HOST:PORT,server=on,wait=off",
            ) from None
    hint: str | None = "start QEMU with -qmp unix:PATH,server=on,wait=off"
    try:
        if not stat.S_ISSOCK(os.stat(address).st_mode):
            raise SourceError(f"{address} is no socket", hint="name QEMU's QMP socket, or host:port")
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
