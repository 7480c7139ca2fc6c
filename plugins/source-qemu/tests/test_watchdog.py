"""When a guest may be let run. The states are those of qapi/run-state.json and qapi/migration.json."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from pydump_source_qemu.watchdog import MAX_LINE, MIGRATED, ForeignError, Patience, Resumed, resume, undo


class Qemu:
    """QEMU as far as it is asked."""

    def __init__(self, status: str, migration: str | None, *, dump: str = "none") -> None:
        self.status, self.migration, self.dump = status, migration, dump
        self.conts = 0

    def ask(self, name: str) -> dict[str, Any]:
        """A command's reply."""
        if name == "query-status":
            return {"return": {"status": self.status, "running": self.status == "running"}}
        if name == "query-migrate":
            return {"return": {} if self.migration is None else {"status": self.migration}}
        if name == "query-dump":
            return {"return": {"status": self.dump, "completed": 0, "total": 1}}
        assert name == "cont"
        self.conts += 1
        if self.dump == "active":
            return {"error": {"class": "GenericError", "desc": "There is a dump in process, please wait."}}
        return {"return": {}}


@pytest.mark.parametrize(
    ("status", "migration"),
    [("paused", None), ("paused", "completed"), ("paused", "failed"), ("save-vm", None), ("postmigrate", "cancelled")],
)
def test_a_guest_that_we_stopped_is_let_run(status: str, migration: str | None) -> None:
    qemu = Qemu(status, migration)
    assert resume(qemu.ask) == Resumed(True)
    assert qemu.conts == 1


@pytest.mark.parametrize("status", ["running", "guest-panicked", "shutdown", "suspended", "internal-error"])
def test_a_guest_that_somebody_let_run_is_left_alone(status: str) -> None:
    qemu = Qemu(status, None)
    assert resume(qemu.ask) == Resumed(True)
    assert qemu.conts == 0


def test_a_guest_that_was_migrated_runs_elsewhere() -> None:
    qemu = Qemu("postmigrate", "completed")
    assert resume(qemu.ask) == Resumed(True, MIGRATED)
    assert qemu.conts == 0


@pytest.mark.parametrize(
    ("status", "migration"),
    [("paused", "active"), ("paused", "setup"), ("paused", "pre-switchover"), ("finish-migrate", "device")],
)
def test_a_migration_is_waited_for(status: str, migration: str) -> None:
    qemu = Qemu(status, migration)
    came = resume(qemu.ask)
    assert (came.done, came.busy, qemu.conts) == (False, True, 0)


def test_a_dump_is_waited_for() -> None:
    came = resume(Qemu("paused", None, dump="active").ask)
    assert (came.done, came.busy) == (False, True)
    assert "dump in process" in came.why


@pytest.mark.parametrize("answer", [{"return": 7}, {"return": {"status": 7}}, {"return": {"status": None}}])
def test_an_answer_of_another_type_is_not_from_qemu(answer: dict[str, Any]) -> None:
    with pytest.raises(ForeignError):
        resume(lambda name: answer)


PATIENCE = Patience(refused=0.2, answer=0.1, silence=0.3, total=0.6)
UNMARK = {"execute": "object-del", "arguments": {"id": "pydump"}, "once": True}
CONT = {"execute": "cont"}


def seconds(serve: Callable[[socket.socket], None], *commands: dict[str, Any], pipe: int = -1) -> float:
    """How long undoing takes with a server."""
    ours, theirs = socket.socketpair()

    def work() -> None:
        with contextlib.suppress(OSError), theirs:
            serve(theirs)

    thread = threading.Thread(target=work)
    thread.start()
    began = time.monotonic()
    with ours:
        undo(ours, list(commands), pipe, PATIENCE)
        took = time.monotonic() - began
    thread.join(10)
    assert not thread.is_alive()
    return took


def requests(client: socket.socket) -> Any:
    """What comes, one command at a time."""
    with client.makefile("rb") as lines:
        for line in lines:
            yield json.loads(line)


def answering(result: Any, *, noise: bytes = b"") -> Callable[[socket.socket], None]:
    """A server that gives every command the same answer."""

    def serve(client: socket.socket) -> None:
        for request in requests(client):
            client.sendall(noise + json.dumps({**result, "id": request["id"]}).encode() + b"\n")

    return serve


def silent(client: socket.socket) -> None:
    """A server that reads."""
    while client.recv(4096):
        pass


def deaf(client: socket.socket) -> None:
    """A server that does not even read."""
    time.sleep(1)


def flood(client: socket.socket) -> None:
    """A server that sends events."""
    while True:
        client.sendall(b'{"event": "RTC_CHANGE"}\n' * 1000)


def endless(client: socket.socket) -> None:
    """A server that sends a line without an end."""
    while True:
        client.sendall(bytes(1 << 16))


def drip(client: socket.socket) -> None:
    """A server that never ends its answer."""
    while True:
        client.sendall(b"[")
        time.sleep(0.02)


@pytest.mark.parametrize("commands", [[UNMARK], [CONT, UNMARK]], ids=["mark", "guest"])
@pytest.mark.parametrize("serve", [silent, deaf, flood, endless, drip, answering({"return": 7}), answering({})])
def test_no_server_keeps_the_watchdog(serve: Callable[[socket.socket], None], commands: list[dict[str, Any]]) -> None:
    assert seconds(serve, *commands) < 5


def test_refusals_are_repeated_for_a_while() -> None:
    refuse = answering({"error": {"class": "GenericError", "desc": "not now"}})
    assert PATIENCE.refused <= seconds(refuse, {"execute": "closefd"}) < 5


def test_a_migration_without_an_end_is_waited_for_until_the_total() -> None:
    def serve(client: socket.socket) -> None:
        for request in requests(client):
            status = {"query-status": "paused", "query-migrate": "active"}[request["execute"]]
            client.sendall(json.dumps({"return": {"status": status}, "id": request["id"]}).encode() + b"\n")

    assert PATIENCE.total <= seconds(serve, CONT) < 5


def test_an_answer_behind_the_rest_of_another_is_found() -> None:
    """Another process has begun to read it; what is left of it is no message."""
    rest = b'"name": "x"}], "id": "1"}\n' + b"x" * (MAX_LINE // 4) + b"\n" + b"[" * 100000 + b"\n[7]\n"
    assert seconds(answering({"return": {}}, noise=rest), {"execute": "closefd"}) < PATIENCE.silence


@pytest.mark.parametrize("bytes_come", [True, False], ids=["flood", "silence"])
def test_draining_ends(bytes_come: bool) -> None:
    reader, writer = os.pipe()
    end = threading.Event()

    def write() -> None:
        with contextlib.suppress(OSError):
            while bytes_come and not end.is_set():
                os.write(writer, bytes(1 << 16))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert seconds(answering({"return": {}}), {"drain": 1 << 22}, UNMARK, pipe=reader) < 5
    finally:
        end.set()
        os.close(reader)
        thread.join(5)
        os.close(writer)
