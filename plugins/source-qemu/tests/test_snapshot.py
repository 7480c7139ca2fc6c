"""A snapshot of a server that is like QEMU: what it is asked, and what comes of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hostile_qemu import LIMITS, SNAPSHOT_PAUSE, Guest, Server
from pydump.errors import PlanError, SourceError
from pydump_qemu_stream.captured import Captured
from pydump_source_qemu.live import QemuGuest
from pydump_source_qemu.options import QemuOptions
from pydump_source_qemu.session import Session


@pytest.fixture(scope="module")
def guest() -> Guest:
    return Guest()


class Moving(Server):
    """Its guest's list of memory is another one each time."""

    def _human(self, line: str) -> str:
        said = super()._human(line)
        return said if self.commands.count("info") < 2 else said.replace("rom): pc.rom", "ram): ram @00000000000c0000")


class Refusing(Server):
    """It does not dump its guest, as QEMU says it of a target without dumps."""

    def _answer(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if name == "dump-guest-memory":
            return {"error": {"class": "GenericError", "desc": "this feature or command is not currently supported"}}
        return super()._answer(name, arguments)


@contextlib.contextmanager
def captured(server: Server, path: Path, options: QemuOptions) -> Iterator[Captured]:
    """Capture its guest."""
    try:
        session = Session.connect(str(path), 2, LIMITS)
        try:
            live = QemuGuest(session, options)
            with live.capture(live.view().guest().memory) as image:
                assert isinstance(image, Captured)
                yield image
        finally:
            session.close()
    finally:
        server.close()


SNAPSHOT = QemuOptions(pause="snapshot")


@pytest.mark.parametrize("describes", [True, False])
def test_registers_are_those_of_the_stream_and_nobody_stops_the_guest(
    guest: Guest, tmp_path: Path, describes: bool
) -> None:
    server = Server(str(tmp_path / "qmp"), guest, "", 0, "", describes=describes)
    with captured(server, tmp_path / "qmp", SNAPSHOT) as image:
        facts = image.guest()
        assert not image.warnings()
    assert facts.memory == guest.head.guest.memory
    if describes:
        assert [cpu.registers["rip"] for cpu in facts.cpus] == [0x1234]
        assert facts.cpus[0].registers["rax"] == 1
        assert not {"stop", "cont"} & set(server.commands)
        assert server.commands.count("dump-guest-memory") == 1  # to open it
    else:  # its CPUs are not known from the stream, so a dump must give their notes while we pause it
        assert facts.notes == guest.head.guest.notes
        assert {"stop", "cont"} <= set(server.commands)


def test_registers_come_with_a_snapshot_where_qemu_refuses_to_dump(
    guest: Guest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = Refusing(str(tmp_path / "qmp"), guest, "", 0, "")
    with caplog.at_level("INFO", "pydump.qmp"), captured(server, tmp_path / "qmp", QemuOptions()) as image:
        assert [cpu.registers["rip"] for cpu in image.guest().cpus] == [0x1234]
        assert not image.warnings()
    assert "not currently supported: its registers come from a snapshot's stream" in caplog.text
    assert server.commands.count("dump-guest-memory") == 1 and "migrate" in server.commands


def test_a_snapshot_that_may_end_qemu_is_not_taken(guest: Guest, tmp_path: Path) -> None:
    server = Refusing(str(tmp_path / "qmp"), guest, "", 0, "", describes=False)
    with (
        pytest.raises(PlanError, match="has not been tested with guests of this target"),
        captured(server, tmp_path / "qmp", SNAPSHOT),
    ):
        pass
    assert "migrate" not in server.commands


def test_a_snapshot_that_pauses_for_longer_than_it_may_is_given_up(guest: Guest, tmp_path: Path) -> None:
    options = QemuOptions(pause="snapshot", timeout=SNAPSHOT_PAUSE / 5)
    server = Server(str(tmp_path / "qmp"), guest, "", 0, "")
    with (
        pytest.raises(SourceError, match=r"the guest was paused for 0.002 s or longer"),
        captured(server, tmp_path / "qmp", options),
    ):
        pass


def test_a_snapshot_takes_no_more_memory_than_it_may(guest: Guest, tmp_path: Path) -> None:
    size = guest.head.guest.memory.size
    server = Server(str(tmp_path / "qmp"), guest, "", 0, "")
    with (
        pytest.raises(SourceError, match=f"it takes {size >> 20} MiB, and --memory-limit is 1"),
        captured(server, tmp_path / "qmp", QemuOptions(pause="snapshot", memory_limit=1)),
    ):
        pass
    assert "migrate" not in server.commands


def test_memory_that_moves_meanwhile_is_warned_of(guest: Guest, tmp_path: Path) -> None:
    server = Moving(str(tmp_path / "qmp"), guest, "", 0, "")
    with captured(server, tmp_path / "qmp", SNAPSHOT) as image:
        assert "moved memory while" in " ".join(image.warnings())
