"""What answers at a monitor's address, and is none, or has no time. Source: docs/interop/qmp-spec.rst."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from pydump.errors import SourceError
from pydump_source_qemu.limits import LIMITS
from pydump_source_qemu.monitor import CommandError, Monitor
from pydump_source_qemu.pipe import await_resumed, elf_stream

GREETING = b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}\n'
#: Seconds; a server that says nothing is heard out for so long.
TIMEOUT = 1


@contextlib.contextmanager
def served(family: socket.AddressFamily, address: Any, serve: Callable[[socket.socket], None] | None) -> Iterator[Any]:
    """A server for one client, which it serves or leaves waiting; gives the address it has."""
    with socket.socket(family) as server:
        server.bind(address)
        server.listen(1)

        def accept() -> None:
            with contextlib.suppress(OSError):
                client, _ = server.accept()
                with client:
                    if serve is not None:
                        serve(client)

        thread = threading.Thread(target=accept)
        if serve is not None:
            thread.start()
        try:
            yield server.getsockname()
        finally:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            if serve is not None:
                thread.join(30)


def refusal(address: str) -> str:
    """Why there is no monitor at an address."""
    with pytest.raises(SourceError) as caught:
        Monitor.connect(address, TIMEOUT).close()
    return str(caught.value)


def says_nothing(client: socket.socket) -> None:
    """A server of something that waits for its client to speak first."""
    client.recv(1)


def test_a_silent_server_is_none_of_qmp(tmp_path: Path) -> None:
    with served(socket.AF_UNIX, str(tmp_path / "s"), says_nothing):
        assert "it is no QMP monitor" in refusal(f"{tmp_path}/s")
    with served(socket.AF_INET, ("127.0.0.1", 0), says_nothing) as (host, port):
        assert "it is no QMP monitor" in refusal(f"{host}:{port}")


def test_a_busy_monitor(tmp_path: Path) -> None:
    with served(socket.AF_UNIX, str(tmp_path / "s"), None):
        said = refusal(f"{tmp_path}/s")
    assert "another client has this monitor;" in said
    with served(socket.AF_INET, ("127.0.0.1", 0), None) as (host, port):
        assert "another client has this monitor;" in refusal(f"{host}:{port}")


def test_one_deadline_for_the_whole_handshake(tmp_path: Path) -> None:
    def silent_at_last(client: socket.socket) -> None:
        client.sendall(GREETING)
        client.recv(4096)
        client.sendall(b'{"return": {}}\n')
        while client.recv(4096):
            pass

    with served(socket.AF_UNIX, str(tmp_path / "s"), silent_at_last):
        assert f"has not answered query-commands in {TIMEOUT} s" in refusal(f"{tmp_path}/s")


def test_a_flood_without_a_line(tmp_path: Path) -> None:
    def flood(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client.sendall(b"x" * 65536)

    with served(socket.AF_UNIX, str(tmp_path / "s"), flood):
        assert "does not speak QMP" in refusal(f"{tmp_path}/s")


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("a..b:4444", "a..b is not a host name"),
        ("localhost:²", "cannot connect to localhost:²: No such file"),
        ("localhost:65536", "ports end at 65535"),
        ("localhost:99999999999", "ports end at 65535"),
    ],
)
def test_what_is_no_address(address: str, why: str) -> None:
    assert why in refusal(address)


class Scripted:
    """A monitor that answers query-status from a list."""

    local = True
    limits = LIMITS

    def __init__(self, *states: str) -> None:
        self.states = list(states)
        self.asked: list[str] = []

    def command(self, name: str, **arguments: Any) -> Any:
        """The next answer."""
        self.asked.append(name)
        if name == "query-status":
            return {"status": self.states.pop(0)}
        if name == "query-dump":
            return {"status": "completed"}
        if name == "dump-guest-memory":
            raise CommandError(name, "enough")
        return {}

    def field(self, name: str, key: str, kind: type[Any]) -> Any:
        """A member of it."""
        return self.command(name)[key]

    def pass_fd(self, fd: int, name: str) -> None:
        """As QEMU."""


def test_a_dump_has_ended_before_the_guest_runs() -> None:
    """QEMU: dump_process() says "completed" before dump_cleanup() lets the guest run (dump/dump.c)."""
    monitor = Scripted("save-vm", "save-vm", "running")
    assert await_resumed(cast(Monitor, monitor)) == "running"
    assert not monitor.states


def test_no_dump_begins_before_the_last_one_is_put_away() -> None:
    monitor = Scripted("save-vm", "running")
    with pytest.raises(SourceError, match="enough"), elf_stream(cast(Monitor, monitor)):
        pass
    assert monitor.asked[:3] == ["query-status", "query-status", "dump-guest-memory"]
