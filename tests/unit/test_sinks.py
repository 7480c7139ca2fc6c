"""Outputs appear whole or not at all."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from pydump.builtin import sinks
from pydump.builtin.sinks import DescriptorSink, FileSink
from pydump.errors import PlanError, SinkError
from pydump.interfaces.sink import Extent, Hole


@pytest.fixture(params=["unnamed", "named"])
def temporary(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of keeping a file out of sight: without a name, and under a temporary one."""
    if request.param == "named":
        real = os.open

        def without_tmpfile(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(95, "Operation not supported")
            return real(path, flags, *args, **kwargs)

        monkeypatch.setattr(sinks.os, "open", without_tmpfile)
    return str(request.param)


@pytest.mark.usefixtures("temporary")
class TestFile:
    def test_it_appears_at_commit_and_only_there(self, tmp_path: Path) -> None:
        path = tmp_path / "vmcore"
        sink = FileSink.open(str(path))
        sink.write(Extent(4096, b"tail"))
        sink.write(Extent(0, b"head"))
        sink.write(Hole(8192, 4096))
        assert not path.exists()
        sink.commit(12288)
        assert path.read_bytes() == b"head".ljust(4096, b"\0") + b"tail".ljust(8192, b"\0")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [p.name for p in tmp_path.iterdir()] == ["vmcore"]

    def test_abort_leaves_nothing(self, tmp_path: Path) -> None:
        sink = FileSink.open(str(tmp_path / "vmcore"))
        sink.write(Extent(0, b"x"))
        sink.abort()
        assert list(tmp_path.iterdir()) == []

    def test_an_existing_file_is_kept_without_force(self, tmp_path: Path) -> None:
        path = tmp_path / "vmcore"
        path.write_text("old")
        with pytest.raises(PlanError, match="exists"):
            FileSink.open(str(path))
        assert path.read_text() == "old"

    def test_force_replaces_at_commit(self, tmp_path: Path) -> None:
        path = tmp_path / "vmcore"
        path.write_text("old")
        sink = FileSink.open(str(path), force=True)
        sink.write(Extent(0, b"new"))
        assert path.read_text() == "old"
        sink.commit(3)
        assert path.read_text() == "new"
        assert [p.name for p in tmp_path.iterdir()] == ["vmcore"]

    def test_a_file_that_appears_meanwhile_is_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "vmcore"
        sink = FileSink.open(str(path))
        sink.write(Extent(0, b"new"))
        path.write_text("someone else's")
        with pytest.raises(SinkError, match="appeared"):
            sink.commit(3)
        assert path.read_text() == "someone else's"
        assert [p.name for p in tmp_path.iterdir()] == ["vmcore"]


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="No such file or directory"):
        FileSink.open(str(tmp_path / "nowhere" / "vmcore"))


def test_a_descriptor_fills_gaps_and_cannot_go_back() -> None:
    reader, writer = os.pipe()
    sink = DescriptorSink.open(str(writer))
    sink.write(Extent(2, b"ab"))
    sink.write(Hole(4, 3))
    sink.write(Extent(8, b"c"))
    with pytest.raises(SinkError, match="cannot seek back"):
        sink.write(Extent(0, b"x"))
    sink.commit(10)
    os.close(writer)
    assert os.read(reader, 100) == b"\0\0ab\0\0\0\0c\0"
    os.close(reader)


def test_a_reader_that_goes_away_is_one_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(SinkError, match="went away"):
        DescriptorSink.open(str(writer)).write(Extent(0, b"x"))
    os.close(writer)


def test_a_named_pipe_and_a_device_are_written_to_and_not_replaced(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    got = []
    thread = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    thread.start()
    sink = DescriptorSink.special(str(fifo))
    assert sink is not None
    sink.write(Extent(0, b"through"))
    sink.commit(7)
    thread.join(10)
    assert got == [b"through"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    null = DescriptorSink.special(os.devnull)
    assert null is not None
    null.write(Extent(0, b"x"))
    null.abort()
    assert DescriptorSink.special(str(tmp_path / "nothing")) is None


def test_no_such_descriptor() -> None:
    for argument in ("999999", "x"):
        with pytest.raises(PlanError, match="no open descriptor"):
            DescriptorSink.open(argument)
