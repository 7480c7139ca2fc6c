"""Whether a guest ran, and letting it go."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gdb_stub import Machine, serving
from pydump_source_gdb.keeper import Opened, let_go, opened, runs_after
from pydump_source_gdb.wire import Wire, WireError, framed


@pytest.mark.parametrize(
    ("machine", "unasked", "ran", "state"),
    [
        # QEMU 7.2 says that it has stopped a guest which ran.
        (Machine(), framed(b"T02thread:01;"), True, ""),
        (Machine(), b"", False, "paused"),
        (Machine(status="paused (prelaunch)"), b"", False, "prelaunch"),
        (Machine(status="paused (guest-panicked)"), b"", False, "guest-panicked"),
        # QEMU since 8.1 says nothing, and calls both "paused".
        (Machine(version="10.0.2 (Debian 1:10.0.2)"), b"", None, ""),
        (Machine(version="8.1.0"), b"", None, ""),
        (Machine(version="8.0.4"), b"", False, "paused"),
        (Machine(version="11.0.0", status="paused (postmigrate)"), b"", False, "postmigrate"),
        (Machine(version="nobody knows"), b"", None, ""),
        (Machine(status="odd", version="7.2.0"), b"", None, ""),
    ],
)
def test_whether_the_guest_ran(tmp_path: Path, machine: Machine, unasked: bytes, ran: bool | None, state: str) -> None:
    with serving(tmp_path / "s", machine, unasked=unasked), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(tmp_path / "s"))
        found = opened(Wire(connection, patience=10))
    assert (found.ran, found.state, found.physical) == (ran, state, 0)
    # "?" would remove somebody's breakpoints, and "k" would end the guest.
    assert not [packet for packet in machine.asked if packet[:1] in (b"?", b"k", b"c", b"D", b"Q")]


@pytest.mark.parametrize(
    ("ran", "after", "runs"),
    [
        (True, "auto", True),
        (False, "auto", False),
        (None, "auto", True),
        (True, "pause", False),
        (False, "run", True),
        (None, "pause", False),
    ],
)
def test_whether_the_guest_runs_afterwards(ran: bool | None, after: str, runs: bool) -> None:
    assert runs_after(Opened("", True, 0, ran), after) is runs


FEATURES = Machine().answer(b"qSupported:")[0].decode()  # type: ignore[index]


@pytest.mark.parametrize("left", [b"", b"$m80000000,8", b"$m80000000,800#", b"$m80000000,800#0", b"$"])
@pytest.mark.parametrize("pending", [0, 100])
def test_the_guest_is_let_go_whatever_was_left_unsaid(tmp_path: Path, left: bytes, pending: int) -> None:
    """A process is killed between any two bytes that it sends, and before it has read the answers."""
    machine = Machine()
    machine.physical = b"1"
    with serving(tmp_path / "s", machine), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(tmp_path / "s"))
        connection.sendall(framed(b"m80000000,800") * pending + left)
        let_go(connection, Opened(FEATURES, True, 0, True), "auto", 10, 10)
    assert machine.physical == b"0"
    assert machine.asked[-1] == b"D;1" and machine.asked.count(b"D;1") == 1


def test_a_guest_that_did_not_run_is_not_let_run(tmp_path: Path) -> None:
    machine = Machine()
    machine.physical = b"1"
    with serving(tmp_path / "s", machine), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(tmp_path / "s"))
        let_go(connection, Opened(FEATURES, True, 0, False, "prelaunch"), "auto", 10, 10)
    assert machine.physical == b"0"
    assert not [packet for packet in machine.asked if packet[:1] == b"D"]


def test_a_stub_that_does_not_let_go_is_an_error(tmp_path: Path) -> None:
    def answer(packet: bytes) -> bytes | None:
        return framed(b"E22") if packet[:1] == b"D" else Machine()(packet)

    with serving(tmp_path / "s", answer), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(tmp_path / "s"))
        with pytest.raises(WireError, match="does not let the guest go"):
            let_go(connection, Opened(FEATURES, True, 0, True), "auto", 10, 10)
