"""Packets. Expected: the examples of the GDB manual, appendix "GDB Remote Serial Protocol"."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from pydump_source_gdb.wire import MAX_PACKET, DamagedError, SilentError, Wire, WireError, framed, unpacked


@contextlib.contextmanager
def answered(*answers: bytes, patience: float = 0.5, acks: bool = True) -> Iterator[tuple[Wire, list[bytes]]]:
    """A wire whose other end sends the first answer at once, and one more for each thing that comes."""
    ours, theirs = socket.socketpair()
    came: list[bytes] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            for answer in answers:
                theirs.sendall(answer)
                came.append(theirs.recv(1 << 16))

    thread = threading.Thread(target=serve)
    with ours:
        thread.start()
        try:
            yield Wire(ours, acks=acks, patience=patience), came
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            thread.join()
            theirs.close()


def test_a_packet_has_the_sum_of_its_bytes_behind_it() -> None:
    assert framed(b"OK") == b"$OK#9a"
    assert framed(b"") == b"$#00"


@pytest.mark.parametrize(
    ("body", "meant"),
    [(b"0* ", b"0000"), (b"a}\x03b", b"a#b"), (b"}\x5d}\x0a", b"}*"), (b"x0*~y", b"x" + b"0" * 98 + b"y")],
)
def test_escapes_and_runs_are_unpacked(body: bytes, meant: bytes) -> None:
    assert unpacked(body) == meant


@pytest.mark.parametrize("body", [b"*!", b"a*", b"a}", b"a*\x01", b"a" + b"*~" * (MAX_PACKET // 90)])
def test_a_packet_that_cannot_be_unpacked_is_refused(body: bytes) -> None:
    with pytest.raises(DamagedError):
        unpacked(body)


def test_a_packet_is_acknowledged_unless_that_was_agreed() -> None:
    with answered(b"+%0Stop:T02#00$OK#9a", b"") as (wire, came):
        assert wire.receive() == b"OK"
    assert came == [b"+", b""] or came[0] == b"+"
    with answered(b"$OK#9a", acks=False) as (wire, came):
        assert wire.receive() == b"OK"
    assert came == [b""]


def test_a_packet_with_a_wrong_checksum_is_asked_for_again() -> None:
    with answered(b"$OK#00", b"$OK#9a", b"") as (wire, came):
        assert wire.receive() == b"OK"
    assert came[:2] == [b"-", b"+"]


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([b"$OK#00"] * 9, DamagedError),
        ([b"$OK#zz"] * 9, DamagedError),
        ([b"-"] * 9, DamagedError),
        ([b""], SilentError),
        ([b"$OK"], SilentError),
        ([b"$OK#"], SilentError),
        ([b"+" * 100], SilentError),
        ([b"$" + b"a" * (MAX_PACKET + 100_000)], WireError),
        ([b"HTTP/1.1 400 Bad Request\r\n" * 50_000], WireError),
    ],
)
def test_what_is_no_answer_is_an_error_in_time(answers: list[bytes], error: type[WireError]) -> None:
    began = time.monotonic()
    with answered(*answers) as (wire, _), pytest.raises(error):
        wire.receive(again=b"$g#67")
    assert time.monotonic() - began < 10


def test_a_connection_that_ends_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(WireError):
        Wire(ours).ask(b"g")
