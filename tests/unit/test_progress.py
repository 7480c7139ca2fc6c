"""Progress on standard error."""

from __future__ import annotations

import os
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pydump.cli import progress
from pydump.cli.progress import shown
from pydump.model.progress import Progress


@contextmanager
def stopped_terminal() -> Iterator[int]:
    """A terminal whose user has pressed ^S; what would wait for it fails."""
    master, slave = os.openpty()
    termios.tcflow(slave, termios.TCOOFF)
    os.set_blocking(slave, False)
    yield slave
    os.close(master)


@contextmanager
def unread_pipe() -> Iterator[int]:
    """A pipe that is full; what would wait for its reader fails."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    while True:
        try:
            os.write(writer, bytes(4096))
        except BlockingIOError:
            break
    yield writer
    os.close(reader)


@pytest.mark.parametrize("style", ["plain", "json", "bar"])
@pytest.mark.parametrize("where", [stopped_terminal, unread_pipe])
def test_who_does_not_read_keeps_nobody_waiting(style: str, where: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", -1)
    with where() as fd, open(fd, "w") as stream:  # type: ignore[operator]
        monkeypatch.setattr(sys, "stderr", stream)
        with shown(style) as tell:
            assert tell is not None
            tell(Progress("dump", 1, 2))
            tell(Progress("dump", 2, 2))
        monkeypatch.undo()


def test_a_reader_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with shown("plain") as tell:
        assert tell is not None
        tell(Progress("dump", 1, 1))
    assert capfd.readouterr().err == "pydump: dump 100 % of 1 byte\n"
