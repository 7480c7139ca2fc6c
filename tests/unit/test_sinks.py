"""Outputs appear whole or not at all."""

from __future__ import annotations

import errno
import os
import select
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pydump
from pydump.builtin import sinks
from pydump.builtin.descriptors import DescriptorSink, is_stdout, names_descriptor
from pydump.builtin.raw import BytesImage
from pydump.builtin.sinks import FileSink
from pydump.builtin.storages import DescriptorStorage
from pydump.errors import PlanError, SinkError
from pydump.interfaces.sink import Extent, Hole
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap


@pytest.fixture(params=["unnamed", "named", "no links"])
def temporary(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ways of keeping a file out of sight: without a name, and under a temporary one, with hard links or not."""
    if request.param != "unnamed":
        real = os.open

        def without_tmpfile(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(95, "Operation not supported")
            return real(path, flags, *args, **kwargs)

        monkeypatch.setattr(sinks.os, "open", without_tmpfile)
    if request.param == "no links":
        monkeypatch.setattr(sinks.os, "link", failing(errno.EPERM))


def failing(number: int) -> Callable[..., None]:
    """A system call that fails."""

    def call(*args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number))

    return call


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

    @pytest.mark.parametrize("force", [False, True])
    def test_the_longest_name_there_is(self, tmp_path: Path, force: bool) -> None:
        path = tmp_path / ("n" * os.pathconf(tmp_path, "PC_NAME_MAX"))
        sink = FileSink.open(str(path), force=force)
        sink.write(Extent(0, b"new"))
        sink.commit(3)
        assert path.read_bytes() == b"new"
        assert [p.name for p in tmp_path.iterdir()] == [path.name]

    def test_a_name_that_can_never_be_is_refused_at_once(self, tmp_path: Path) -> None:
        for force in (False, True):
            with pytest.raises(PlanError, match="the output has no name"):
                FileSink.open("", force=force)
            with pytest.raises(SinkError, match="cannot write"):
                FileSink.open(str(tmp_path / ("n" * 256)), force=force)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("temporary", ["no links"], indirect=True)
def test_a_name_that_cannot_be_taken_after_all_is_free_again(
    temporary: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without hard links, an empty file holds the name until the dump is moved there."""
    monkeypatch.setattr(sinks.os, "rename", failing(errno.EIO))
    sink = FileSink.open(str(tmp_path / "vmcore"))
    with pytest.raises(SinkError, match="Input/output error; nothing was left there"):
        sink.commit(0)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_synced_holds_the_dump_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CIFS: the name is there, so to say that nothing was left would be wrong."""
    real = os.fsync

    def files_only(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(fd)

    monkeypatch.setattr(sinks.os, "fsync", files_only)
    sink = FileSink.open(str(tmp_path / "vmcore"))
    sink.write(Extent(0, b"new"))
    sink.commit(3)
    assert (tmp_path / "vmcore").read_bytes() == b"new"


@pytest.mark.usefixtures("temporary")
@pytest.mark.parametrize("force", [False, True])
def test_a_name_that_may_not_be_on_the_disk_is_said_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    real = os.fsync

    def files_only(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        real(fd)

    monkeypatch.setattr(sinks.os, "fsync", files_only)
    sink = FileSink.open(str(tmp_path / "vmcore"), force=force)
    sink.write(Extent(0, b"new"))
    with pytest.raises(SinkError, match="vmcore is written, but may not be on the disk: Input/output error; read"):
        sink.commit(3)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("vmcore", b"new")]


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="No such file or directory"):
        FileSink.open(str(tmp_path / "nowhere" / "vmcore"))


def test_a_descriptor_fills_gaps_and_cannot_go_back() -> None:
    reader, writer = os.pipe()
    sink = DescriptorStorage.writer(f"fd:{writer}")
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
        DescriptorStorage.writer(f"fd:{writer}").write(Extent(0, b"x"))
    os.close(writer)


def test_a_named_pipe_and_a_device_are_written_to_and_not_replaced(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    sink = DescriptorSink.special(str(fifo))
    assert sink is not None
    sink.write(Extent(0, b"through"))
    sink.commit(7)
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    null = DescriptorSink.special(os.devnull)
    assert null is not None
    null.write(Extent(0, b"x"))
    null.abort()
    assert DescriptorSink.special(str(tmp_path / "nothing")) is None


def test_no_such_descriptor() -> None:
    for argument in ("999999", "x"):
        with pytest.raises(PlanError, match="descriptor that is open for writing"):
            DescriptorStorage.writer(f"fd:{argument}")
    with open(os.devnull, "rb") as reading, pytest.raises(PlanError, match="descriptor that is open for writing"):
        DescriptorStorage.writer(f"fd:{reading.fileno()}")


def test_a_path_that_leads_to_an_open_file_is_that_descriptor(tmp_path: Path) -> None:
    """/dev/stdout may lead to an ordinary file: it is written to from where it stands, and its link stays."""
    with (tmp_path / "file").open("wb", buffering=0) as file:
        file.write(b"before,")
        link, way = tmp_path / "link", tmp_path / "way"
        link.symlink_to(f"/proc/self/fd/{file.fileno()}")
        way.symlink_to("link")
        names = [f"/dev/fd/{file.fileno()}", f"/proc/{os.getpid()}/fd/{file.fileno()}", str(link), str(way)]
        for name in names:
            assert names_descriptor(name)
            sink = DescriptorSink.special(name)
            assert sink is not None
            sink.write(Extent(0, b"dump,"))
            sink.commit(5)
        assert link.is_symlink()
    assert (tmp_path / "file").read_bytes() == b"before," + b"dump," * len(names)
    assert not names_descriptor(str(tmp_path / "file"))
    with pytest.raises(PlanError, match="descriptor that is open for writing"):
        DescriptorSink.special("/dev/fd/999999")


def test_an_open_file_of_another_process_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with (tmp_path / "file").open("ab") as file, subprocess.Popen(["sleep", "60"], stdout=file) as other:
        try:
            for path in (f"/proc/{other.pid}/fd/1", f"/proc/{other.pid}/task/{other.pid}/fd/1"):
                with pytest.raises(PlanError, match="another process has open"):
                    DescriptorSink.special(path)
        finally:
            other.kill()
    assert (tmp_path / "file").read_text() == "precious"


def test_standard_output_by_any_name(tmp_path: Path) -> None:
    same, other = os.dup(1), os.open(tmp_path / "other", os.O_CREAT | os.O_WRONLY)
    try:
        for name in ("-", "fd:1", "fd:01", "/dev/stdout", "/proc/self/fd/1", f"fd:{same}", f"/dev/fd/{same}"):
            assert is_stdout(name), name
        for name in (f"fd:{other}", f"/dev/fd/{other}", "fd:999999", "fd:x", str(tmp_path / "other"), "nowhere", ""):
            assert not is_stdout(name), name
    finally:
        os.close(same)
        os.close(other)


def test_a_pipe_that_does_not_wait_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    data = os.urandom(1 << 20)  # more than a pipe holds
    got = []
    with open(reader, "rb") as stream:
        thread = threading.Thread(target=lambda: got.append(stream.read()))
        sink = DescriptorStorage.writer(f"fd:{writer}")
        os.write(writer, b"x" * 4096)  # so that it is not empty when the reader comes
        thread.start()
        sink.write(Extent(0, data))
        sink.commit(len(data))
        os.close(writer)
        thread.join(30)
    assert got == [b"x" * 4096 + data]


def test_a_dry_run_opens_no_pipe(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    sink = DescriptorSink.special(str(fifo), dry=True)
    assert sink is not None and sink.placement == "ascending"
    sink.abort()
    assert poll.poll(0) == []  # a writer that had come and gone would be POLLHUP
    os.close(reader)


def test_a_name_no_file_can_have() -> None:
    source = BytesImage(Guest(MemoryMap(), arch="x86_64"), {0: bytes(4096)})
    with pytest.raises(SinkError, match="with a NUL in its name"):
        pydump.dump(source, "a\0b")
