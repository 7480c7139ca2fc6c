"""Whatever answers at a stub's address: an error in one line, in bounded time, with no process left."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gdb_stub import Answer, Machine, serving
from pydump.errors import PlanError, PydumpError
from pydump_source_gdb.address import Address
from pydump_source_gdb.guard import Guard, Limits
from pydump_source_gdb.keeper import Opened
from pydump_source_gdb.live import GdbGuest
from pydump_source_gdb.options import GdbOptions
from pydump_source_gdb.session import Session
from pydump_source_gdb.wire import framed

QUICK = Limits(answer=0.3, close=2, persistence=1)


def read_all(path: Path) -> None:
    """Open a guest, and read its memory."""
    with GdbGuest(Session(str(path), GdbOptions(), QUICK)) as guest:
        guest.view().read_into(0x80000000, memoryview(bytearray(0x10000)))


def instead(question: bytes, said: bytes | None) -> Callable[[Machine], Answer]:
    """A machine that answers one kind of question otherwise."""

    def make(machine: Machine) -> Answer:
        return lambda packet: said if packet.startswith(question) else machine(packet)

    return make


QUESTIONS = (b"qSupported", b"qqemu.PhyMemMode", b"qRcmd", b"qXfer", b"qfThreadInfo", b"Hg", b"g", b"Qqemu", b"m8")
SAID = {
    "silence": None,
    "a wrong checksum": b"$OK#00",
    "a packet that does not end": b"$OK",
    "a packet of 2 MiB": b"$" + b"a" * (2 << 20),
    "noise": b"HTTP/1.1 400 Bad Request\r\n" * 100_000,
    "a refusal that goes on": b"-" * 1000,
    "an endless run": framed(b"m0" + b"*~" * 40_000),
}


#: Each question is not answered once, and each answer is given to a question of the keeper's and to one of ours.
CASES = [(question, "silence") for question in QUESTIONS] + [
    (question, said) for said in list(SAID)[1:] for question in (b"qqemu.PhyMemMode", b"m8")
]


@pytest.mark.parametrize(("question", "said"), CASES)
def test_a_stub_that_misbehaves_is_an_error(tmp_path: Path, question: bytes, said: str) -> None:
    began = time.monotonic()
    answer = instead(question, SAID[said])(Machine())
    with serving(tmp_path / "s", answer), pytest.raises(PydumpError) as caught:
        read_all(tmp_path / "s")
    assert len(str(caught.value).splitlines()) == 1
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (b"qfThreadInfo", b"mzz"),
        (b"qsThreadInfo", b"m" + b"1," * 100_000 + b"1"),
        (b"qXfer", b"m"),
        (b"qXfer", b"E01"),
        (b"qXfer", b"x<target/>"),
        (b"qXfer", b'l<target><xi:include href="../&#10;"/></target>'),
        (b"Hg", b"E22"),
        (b"m8", b"E14"),
        (b"m8", b"zz"),
        (b"m8", b""),
        (b"m8", b"00" * 4096),
        (b"Qqemu.PhyMemMode:1", b"E22"),
    ],
)
def test_an_answer_that_makes_no_sense_is_an_error(tmp_path: Path, question: bytes, said: bytes) -> None:
    answer = instead(question, framed(said))(Machine())
    with serving(tmp_path / "s", answer), pytest.raises(PydumpError):
        read_all(tmp_path / "s")


def test_a_stub_without_a_list_of_ram_is_asked_for_it(tmp_path: Path) -> None:
    answer = instead(b"qRcmd", framed(b""))(Machine())
    with serving(tmp_path / "s", answer):
        with pytest.raises(PlanError, match="--gdb-ram"):
            Session(str(tmp_path / "s"), GdbOptions(), QUICK)
        session = Session(str(tmp_path / "s"), GdbOptions(ram="0x80000000-0x80010000"), QUICK)
        session.close()
    assert [(block.paddr, block.size) for block in session.guest.memory] == [(0x80000000, 0x10000)]


def test_a_connection_that_waits_for_its_turn_lets_the_guest_go_when_it_comes(tmp_path: Path) -> None:
    """A stub that has another debugger accepts later, and then stops the guest: what lets it go is said already."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        with pytest.raises(PydumpError, match="does not answer"):
            Session(str(tmp_path / "s"), GdbOptions(), QUICK)
        came, _ = server.accept()
        with came:
            came.settimeout(10)
            assert came.recv(1 << 16).endswith(framed(b"D;1"))


def test_a_stub_that_has_a_debugger_is_left_alone(tmp_path: Path) -> None:
    with serving(tmp_path / "s", Machine()) as came, socket.socket(socket.AF_UNIX) as other:
        other.connect(str(tmp_path / "s"))
        with pytest.raises(PydumpError, match="has another debugger"):
            Session(str(tmp_path / "s"), GdbOptions(), QUICK)
        assert len(came) <= 1


def test_who_kills_the_keeper_does_not_keep_the_guest_paused(tmp_path: Path) -> None:
    machine = Machine(version="10.0.2")
    with serving(tmp_path / "s", machine):
        guard = Guard(Address.of(str(tmp_path / "s")), "auto", QUICK)
        guard._process.kill()
        guard._process.wait()
        guard.close()
    assert machine.asked[-1] == b"D;1"


def test_who_is_killed_before_it_reads_what_the_keeper_says_lets_the_guest_go(tmp_path: Path) -> None:
    class Killed(Guard):
        def _opened(self, address: Address) -> Opened:
            select.select([self._lifeline], [], [], 10)
            self._lifeline.close()
            self._process.wait(10)
            raise KeyboardInterrupt

    machine = Machine(version="10.0.2")
    with serving(tmp_path / "s", machine), pytest.raises(KeyboardInterrupt):
        Killed(Address.of(str(tmp_path / "s")), "auto", QUICK)
    assert machine.asked[-1] == b"D;1"


def test_a_stub_that_does_not_let_go_is_said(tmp_path: Path) -> None:
    answer = instead(b"D", framed(b"E22"))(Machine(version="10.0.2"))
    with serving(tmp_path / "s", answer):
        guard = Guard(Address.of(str(tmp_path / "s")), "auto", QUICK)
        with pytest.raises(PydumpError, match="the guest may be paused"):
            guard.close()


@pytest.mark.parametrize("text", ["127.0.0.1:99999", "nowhere.invalid:1", "/nowhere", "", "a\0b", "127.0.0.1:1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(PydumpError):
        Guard(Address.of(text), "auto", QUICK)
