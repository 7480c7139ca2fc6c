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
import struct
import time
from collections.abc import Coroutine, Mapping
from types import MappingProxyType
from typing import Any, Final, Self, TypeVar

from qemu.qmp import ConnectError, ExecuteError, QMPError
from qemu.qmp.message import DeserializationError
from qemu.qmp.qmp_client import BadReplyError

from pydump.errors import SourceError
from pydump.signals import put_off
from pydump_source_qemu.address import connected, is_accepted
from pydump_source_qemu.client import POSTED, Client
from pydump_source_qemu.events import Event
from pydump_source_qemu.gdb_stub import is_stop, let_go
from pydump_source_qemu.limits import LIMITS, MAX_LINE, Limits
from pydump_source_qemu.pauses import Pauses

T = TypeVar("T")

#: Seconds after which a signal that came during a command is looked at.
SLICE: Final = 0.1
#: What every capture needs.
NEEDED: Final = ("query-status", "stop", "cont", "dump-guest-memory", "query-dump")
#: Characters of a message of QEMU's that are shown.
MAX_MESSAGE: Final = 500
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


# Long: all that is sent and read on one connection shares its buffer, its events and its time limits.
class Monitor:
    """A connection to a QMP server.

    What answers may be anything: each wait ends, a message has a largest size, events are not kept, and what has
    another type than QEMU gives it is an error that says so.

    Attributes:
        address: What the user called it.
        socket: The connected socket.
        version: QEMU's, as "7.2.22".
        limits: How long it may take.
    """

    def __init__(
        self, address: str, connected: socket.socket, timeout: float, deadline: float, limits: Limits = LIMITS
    ) -> None:
        self.address = address
        self.socket = connected
        self.socket.setblocking(False)
        self.version = ""
        self.limits = limits
        # The library reports a lost connection to its logger as well as by an exception; the exception does.
        logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._client = Client(readbuflen=MAX_LINE)
        self._pauses = Pauses()
        self._client.events.event_filter = self._pauses.fold
        try:
            self._greet(timeout, deadline)
        except BaseException:
            self.close()
            raise

    @classmethod
    def connect(cls, address: str, timeout: float, limits: Limits = LIMITS) -> Self:
        """Connect and shake hands.

        Args:
            address: The path of a UNIX socket, or ``host:port``.
            timeout: Seconds that this may take.
            limits: How long everything else may take.

        Raises:
            SourceError: It failed; the message says why.
        """
        deadline = time.monotonic() + timeout
        return cls(address, connected(address, timeout), timeout, deadline, limits)

    def _greet(self, timeout: float, deadline: float) -> None:
        if not select.select([self.socket], [], [], max(0.0, deadline - time.monotonic()))[0]:
            accepted = is_accepted(self.socket)  # what is sent to it may make it hang up
            raise (self._gdb_stub() if accepted else None) or self._silent(timeout, accepted)
        if is_stop(self.socket.recv(8, socket.MSG_PEEK)):
            raise self._gdb_stub() or self._foreign("it speaks as a gdb stub does")
        try:
            self._run(self._client.connect(self.socket), deadline)
        except TimeoutError:
            raise self._foreign("what it says does not end") from None
        except (ConnectError, QMPError) as error:
            cause = error.exc if isinstance(error, ConnectError) else error
            if isinstance(cause, EOFError | ConnectionError):
                raise SourceError(f"{self.address} hung up without a word", hint=NO_QMP) from None
            if isinstance(cause, OSError):
                raise SourceError(f"{self.address}: {cause.strerror or cause}", hint=NO_QMP) from None
            raise self._foreign("it does not greet as QEMU does") from None
        greeting = self._client.greeting
        self.version = self._version(greeting.QMP.version if greeting is not None else None)
        try:
            entries = self._execute("query-commands", {}, timeout, deadline)
        except CommandError:
            entries = []
        known = {entry["name"] for entry in self._rows("query-commands", entries, {"name": str})}
        missing = [name for name in NEEDED if name not in known]
        if missing:
            raise SourceError(
                f"{self.address} is not a QEMU that can be dumped: it has no {', '.join(missing)}",
                hint="connect to the monitor of a virtual machine",
            )

    def _version(self, version: object) -> str:
        numbers = version.get("qemu") if isinstance(version, dict) else None
        if isinstance(numbers, dict):
            parts = [numbers.get(key) for key in ("major", "minor", "micro")]
            if all(type(part) is int and 0 <= part < 1 << 16 for part in parts):
                return "{}.{}.{}".format(*parts)
        raise self._foreign("it does not say which version of QEMU it is")

    def _gdb_stub(self) -> SourceError | None:
        """What is wrong where a gdb stub answers; it is let go. None where none does."""
        self.socket.setblocking(True)
        guest = let_go(self.socket)
        if guest is None:
            return None
        return SourceError(
            f"{self.address} is a gdb stub and no monitor; {guest}", hint=f"gdb:{self.address} reads through a stub"
        )

    def _silent(self, timeout: float, accepted: bool | None) -> SourceError:
        """Nobody speaks: QEMU leaves a second client waiting, another server takes it and says nothing."""
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

    def command(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Run a command and give the object that it returns, which is empty for many.

        Args:
            name: The command.
            arguments: Its arguments, with underscores where QMP has dashes.

        Raises:
            CommandError: QEMU refused it.
            SourceError: QEMU is gone, or does not answer, or what answers is not QEMU.
        """
        answer = self._answer(name, arguments)
        if not isinstance(answer, dict):
            raise self.foreign(name)
        return answer

    def field(self, name: str, key: str, kind: type[T], default: T | None = None) -> T:
        """Run a command and give one member of the object that it returns.

        Args:
            name: The command.
            key: The member.
            kind: Its type.
            default: Its value where it is left out; None where QEMU always has it.

        Raises:
            SourceError: As for :meth:`command`, which includes a member of another type.
        """
        value = self.command(name).get(key, default)
        if type(value) is not kind:
            raise self.foreign(name)
        return value

    def text(self, name: str, **arguments: Any) -> str:
        """Run a command that returns a string; raises as :meth:`command`."""
        answer = self._answer(name, arguments)
        if not isinstance(answer, str):
            raise self.foreign(name)
        return answer

    def flag(self, name: str, **arguments: Any) -> bool:
        """Run a command that returns a truth value; raises as :meth:`command`."""
        answer = self._answer(name, arguments)
        if not isinstance(answer, bool):
            raise self.foreign(name)
        return answer

    def rows(
        self, name: str, arguments: Mapping[str, Any] = MappingProxyType({}), /, **kinds: type
    ) -> list[dict[str, Any]]:
        """Run a command that returns a list of objects.

        Args:
            name: The command.
            arguments: Its arguments.
            kinds: Members that each of them has, and their types.

        Raises:
            SourceError: As for :meth:`command`.
        """
        return self._rows(name, self._answer(name, arguments), kinds)

    def _rows(self, name: str, answer: object, kinds: dict[str, type]) -> list[dict[str, Any]]:
        if not isinstance(answer, list):
            raise self.foreign(name)
        for row in answer:
            if not isinstance(row, dict) or any(type(row.get(key)) is not kind for key, kind in kinds.items()):
                raise self.foreign(name)
        return answer

    def foreign(self, name: str) -> SourceError:
        """The error for an answer to the command ``name`` that QEMU would not give."""
        return self._foreign(f"its answer to {name} is not one of QEMU's")

    def _foreign(self, why: str) -> SourceError:
        return SourceError(f"{self.address} does not speak QMP: {why}", hint=NO_QMP)

    def _answer(self, name: str, arguments: Mapping[str, Any]) -> object:
        seconds = self.limits.command
        return self._execute(name, arguments, seconds, time.monotonic() + seconds)

    def _execute(self, name: str, arguments: Mapping[str, Any], timeout: float, deadline: float) -> object:
        self._own()
        if self._loop.is_closed():
            raise SourceError(f"the connection to {self.address} is closed")
        message = {key.replace("_", "-"): value for key, value in arguments.items()}
        try:
            return self._run(self._client.execute(name, message or None), deadline)
        except ExecuteError as error:
            raise CommandError(name, shortened(str(error))) from None
        except TimeoutError:
            raise SourceError(f"QEMU has not answered {name} in {timeout:g} s") from None
        except BadReplyError:
            raise self.foreign(name) from None
        except (QMPError, OSError, EOFError):
            if self._is_foreign():
                raise self.foreign(name) from None
            raise SourceError(f"the connection to QEMU broke at {name}: did QEMU end?") from None

    def _is_foreign(self) -> bool:
        """Whether the connection has broken because of what came, not because it ended."""
        try:
            self._run(self._client.disconnect(), time.monotonic() + 1)
        except DeserializationError as error:
            return error.raw.endswith(b"\n")  # else it ended within a message
        except (OSError, EOFError):
            return False
        except Exception:  # whatever the library, or JSON, says of it
            return True
        return False

    def _own(self) -> None:
        if os.getpid() != self._pid:
            raise SourceError(
                f"the connection to {self.address} belongs to another process",
                hint="capture the guest before you fork: LiveGuest.capture",
            )

    def human(self, line: str) -> str:
        """Run a command of the human monitor and give what it prints.

        Raises:
            SourceError: As for :meth:`command`.
        """
        return self.text("human-monitor-command", command_line=line).replace("\r\n", "\n")

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
        """How long the guest was paused since we connected, by QEMU's own clock."""
        return self._pauses.seconds

    @property
    def resumes(self) -> int:
        """How often the guest began to run."""
        return self._pauses.resumes

    @property
    def resets(self) -> int:
        """How often the guest was reset."""
        return self._pauses.resets

    def heard(self, event: Event) -> bool:
        """Whether an event has come since we connected."""
        return event.name in self._pauses.heard

    def settle(self) -> None:
        """Take in the events that QEMU has sent.

        Raises:
            SourceError: QEMU is gone.
        """
        self.command("query-status")

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


def shortened(text: str) -> str:
    """Text of QEMU's as it is shown: one line that is not too long."""
    line = " ".join(text[: 2 * MAX_MESSAGE].split())
    return line if len(line) <= MAX_MESSAGE else f"{line[:MAX_MESSAGE]}…"
