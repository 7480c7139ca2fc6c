"""A domain as libvirt sees it, and its QEMU's monitor, which libvirt owns."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from pydump.errors import PlanError, SourceError
from pydump_source_libvirt.source import refuse_remote

T = TypeVar("T")
#: Source: virDomainState in include/libvirt/libvirt-domain.h.
RUNNING, PAUSED, CRASHED = 1, 3, 6
STATES: Final = {
    0: "in no state", 1: "running", 2: "blocked", 3: "paused", 4: "shutting down", 5: "shut off", 6: "crashed",
    7: "suspended",
}  # fmt: skip
#: What libvirt does to a domain. Source: virDomainJobOperation, as above.
JOBS: Final = {
    1: "starting", 2: "saving", 3: "restoring", 4: "receiving", 5: "migrating", 6: "taking a snapshot of",
    7: "reverting", 8: "dumping", 9: "backing up", 10: "deleting a snapshot of",
}  # fmt: skip
#: VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP.
HMP: Final = 1
#: Where libvirt keeps what managedsave saves: of the system, and of a session.
#: Source: virQEMUDriverConfigNew in src/qemu/qemu_conf.c.
SAVES: Final = ("/var/lib/libvirt/qemu/save", "~/.config/libvirt/qemu/save")
#: Bytes of memory in one call. Source: REMOTE_DOMAIN_MEMORY_PEEK_BUFFER_MAX in src/remote/remote_protocol.x.
MAX_PEEK: Final = 4 << 20
#: Seconds that the domain may take to be as it was, and between two looks.
SETTLE: Final = 10
PAUSE: Final = 0.05
#: VIR_ERR_OPERATION_INVALID and VIR_ERR_NO_DOMAIN.
GONE: Final = (55, 42)


class CommandError(SourceError):
    """QEMU refuses a command.

    Attributes:
        why: What QEMU says.
    """

    def __init__(self, command: str, why: str) -> None:
        super().__init__(f"QEMU refuses {command}: {why}")
        self.why = why


class GoneError(SourceError):
    """The domain does not run any more."""


class Domain:
    """A connection to libvirt, and one of its domains.

    Args:
        uri: libvirt's URI; empty for its default.
        name: The domain's name or UUID.
        events: Whether libvirt is to say what happens to it; see :mod:`.events`.

    Attributes:
        uri: The URI that was connected to.
        name: The domain's name.
        uuid: Its UUID.

    Raises:
        PlanError: libvirt-python is not installed, or too old.
        SourceError: There is no such domain.
    """

    def __init__(self, uri: str, name: str, *, events: bool = False) -> None:
        try:
            import libvirt
            import libvirt_qemu
        except ImportError:
            raise PlanError(
                "libvirt: needs libvirt-python, which is not installed",
                hint="apt install python3-libvirt (dnf: python3-libvirt), or "
                "pip install 'pydump-source-libvirt[libvirt]', which takes a compiler and libvirt-dev",
            ) from None
        self._libvirt, self._qemu = libvirt, libvirt_qemu
        if not hasattr(libvirt_qemu, "qemuMonitorCommandWithFiles"):
            raise PlanError("this libvirt-python passes no descriptors to QEMU", hint="install version 8.2 or later")
        libvirt.registerErrorHandler(lambda context, error: None, None)  # else it prints them
        if events:
            libvirt.virEventRegisterDefaultImpl()
        self._connect(uri, name)
        self.uri, self.name, self.uuid = self._connection.getURI(), self._domain.name(), self._domain.UUIDString()

    def refuse_others(self) -> None:
        """Refuse a domain that is not QEMU's, or on another host.

        Raises:
            PlanError: It is.
        """
        refuse_remote(self.uri)
        if self._connection.getType() != "QEMU":
            raise PlanError(f"{self.uri} is not libvirt's driver of QEMU", hint="name qemu:///system")

    def _connect(self, uri: str, name: str) -> None:
        try:
            self._connection = self._libvirt.open(uri or None)
        except self._libvirt.libvirtError as error:
            raise SourceError(
                f"cannot connect to libvirt: {error.get_error_message()}",
                hint="check that libvirtd runs; libvirt:qemu:///session:DOMAIN names a domain of the user's own",
            ) from None
        try:
            try:
                self._domain = self._connection.lookupByName(name)
            except self._libvirt.libvirtError:
                self._domain = self._connection.lookupByUUIDString(name)
        except self._libvirt.libvirtError:
            with contextlib.suppress(self._libvirt.libvirtError):
                self._connection.close()
            hint = "virsh list --all shows them; libvirt:qemu:///session:DOMAIN names a domain of the user's own"
            raise GoneError(f"libvirt has no domain {name!r}", hint=hint) from None

    def reconnect(self) -> None:
        """Connect again, to a libvirtd that was started again.

        Raises:
            SourceError: There is none.
        """
        self.close()
        self._connect(self.uri, self.uuid)

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(self._libvirt.libvirtError):
            self._connection.close()

    @property
    def alive(self) -> bool:
        """Whether the connection is."""
        return bool(self._connection.isAlive() == 1)

    def listen(self, kind: int, heard: Callable[..., None]) -> None:
        """Have a function called with what happens to the domain, where libvirt's event loop runs.

        Args:
            kind: One of libvirt's VIR_DOMAIN_EVENT_ID.
            heard: The function.

        Raises:
            SourceError: libvirt does not say it.
        """
        try:
            self._connection.domainEventRegisterAny(self._domain, kind, heard, None)
        except self._libvirt.libvirtError as error:
            raise self._error(error) from None

    def monitor(self, command: str, files: Sequence[int] = (), **arguments: Any) -> Any:
        """Run a QMP command.

        Args:
            command: Its name.
            files: Descriptors that go with it.
            arguments: Its arguments; ``_`` in a name stands for ``-``.

        Returns:
            What QEMU returns.

        Raises:
            CommandError: QEMU refuses it.
            SourceError: libvirt does not pass it on.
        """
        asked = {"execute": command, "arguments": {name.replace("_", "-"): value for name, value in arguments.items()}}
        try:
            answer = json.loads(self._ask(json.dumps(asked), files, 0))
        except (ValueError, RecursionError):
            raise self._foreign(command) from None
        if not isinstance(answer, dict):
            raise self._foreign(command)
        if "error" in answer:
            error = answer["error"]
            raise CommandError(command, str(error.get("desc") if isinstance(error, dict) else error)[:300])
        return answer.get("return")

    def field(self, command: str, key: str, kind: type[T], default: T | None = None) -> T:
        """Run a QMP command and give one member of the object that it returns.

        Args:
            command: Its name.
            key: The member.
            kind: Its type.
            default: Its value where it is left out; None where QEMU always has it.

        Raises:
            SourceError: As for :meth:`monitor`, which includes a member of another type.
        """
        answer = self.monitor(command)
        value = answer.get(key, default) if isinstance(answer, dict) else None
        if type(value) is not kind:
            raise self._foreign(command)
        return value

    def rows(self, command: str) -> list[dict[str, Any]]:
        """Run a QMP command that returns a list of objects; raises as :meth:`field`."""
        answer = self.monitor(command)
        if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
            raise self._foreign(command)
        return answer

    def _foreign(self, command: str) -> SourceError:
        return SourceError(f"the answer to {command} that comes through libvirt is not one of QEMU's")

    def human(self, line: str) -> str:
        """What a command of the human monitor prints; raises as :meth:`monitor`."""
        return self._ask(line, (), HMP)

    def _ask(self, line: str, files: Sequence[int], flags: int) -> str:
        try:
            return str(self._qemu.qemuMonitorCommandWithFiles(self._domain, line, list(files), flags)[0])
        except self._libvirt.libvirtError as error:
            raise self._error(error) from None

    def _error(self, error: Any) -> SourceError:
        kind = GoneError if error.get_error_code() in GONE else SourceError
        return kind(f"libvirt: {error.get_error_message()}")

    def xml(self) -> bytes:
        """The XML of the running domain."""
        return str(self._call("XMLDesc")).encode()

    def state(self) -> int:
        """The state in libvirt's eyes."""
        return int(self._call("state")[0])

    def suspend(self) -> None:
        """Pause it."""
        self._call("suspend")

    def resume(self) -> None:
        """Let it run."""
        self._call("resume")

    def peek(self, paddr: int, size: int) -> bytes:
        """Guest-physical memory as it is now, :data:`MAX_PEEK` bytes at most; QEMU gives it to libvirt in a file."""
        return bytes(self._call("memoryPeek", paddr, size, self._libvirt.VIR_MEMORY_PHYSICAL))

    def _call(self, name: str, *arguments: object) -> Any:
        try:
            return getattr(self._domain, name)(*arguments)
        except self._libvirt.libvirtError as error:
            raise self._error(error) from None

    def job(self) -> str:
        """What libvirt does to the domain: ``saving``; empty if it does nothing."""
        if not self._call("jobInfo")[0]:
            return ""
        return JOBS.get(self._call("jobStats").get("operation", 0), "at work on")

    def dump(self, path: str) -> None:
        """Have libvirt write QEMU's ELF dump to a file or a pipe, and pause the domain meanwhile if it runs.

        Raises:
            SourceError: It failed. The domain is as it was.
        """
        library = self._libvirt
        try:
            self._domain.coreDumpWithFormat(path, library.VIR_DOMAIN_CORE_DUMP_FORMAT_RAW, library.VIR_DUMP_MEMORY_ONLY)
        except library.libvirtError as error:
            raise SourceError(
                f"libvirt cannot dump the domain {self.name}: {error.get_error_message()}",
                hint=f"virsh dump --memory-only {self.name} FILE, which pydump reads, may say more",
            ) from None

    def await_state(self, state: int) -> None:
        """Wait until the domain is in the state of before, in libvirt's eyes, and runs in QEMU's if it ran.

        Raises:
            SourceError: It is not.
        """
        deadline = time.monotonic() + SETTLE
        while True:
            now = self.state()
            if now == state and (state != RUNNING or self.field("query-status", "status", str) == "running"):
                return
            if time.monotonic() > deadline:
                raise SourceError(
                    f"the domain {self.name} was {STATES[state]} before the capture and is {STATES.get(now, now)} now",
                    hint="virsh domstate --reason says why; virsh resume lets it run",
                )
            time.sleep(PAUSE)

    def refuse_shut_off(self) -> None:
        """Refuse a domain that has no memory.

        Raises:
            SourceError: It is shut off, or saved.
        """
        try:
            if self._domain.isActive():
                return
            saved = self._domain.hasManagedSaveImage()
        except self._libvirt.libvirtError as error:
            raise self._error(error) from None
        session = urlsplit(self.uri).path == "/session"
        image = f"{SAVES[session]}/{self.name}.save"
        hint = f"its memory is in its save image, which pydump reads: {image}" if saved else "start it"
        raise SourceError(f"the domain {self.name} is {'saved' if saved else 'shut off'}", hint=hint)

    def refuse_busy(self) -> None:
        """Refuse a domain that cannot be captured now.

        Raises:
            SourceError: It is shut off, or libvirt is at work on it.
        """
        self.refuse_shut_off()
        if job := self.job():
            raise SourceError(f"libvirt is {job} the domain {self.name}", hint="wait until that has ended")
