"""What another user puts in a directory that both can write to gets no guest memory, and nothing of ours is lost."""

from __future__ import annotations

import contextlib
import os
import pty
import stat
from pathlib import Path

import pytest

import pydump
from pydump.builtin.descriptors import DescriptorSink
from pydump.builtin.files import FileBacking
from pydump.errors import PlanError, SinkError
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap

#: nobody.
OTHER = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files that belong to another user")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory like /tmp."""
    path = tmp_path / "shared"
    path.mkdir()
    path.chmod(0o1777)
    return path


def planted(path: Path) -> Path:
    """The file or link, given to the other user."""
    os.chown(path, OTHER, OTHER, follow_symlinks=False)
    return path


def fifo(path: Path) -> Path:
    os.mkfifo(path, 0o666)
    return path


def link(path: Path, target: str | Path) -> Path:
    path.symlink_to(target)
    return path


def dump(path: Path, *, force: bool = False, dry_run: bool = False) -> None:
    source = pydump.BytesImage(Guest(MemoryMap(), arch="x86_64"), {0: b"secret! " * 512})
    pydump.dump(source, path, force=force, dry_run=dry_run, workers=1)


@needs_root
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_planted_pipe_gets_nothing(shared: Path, dry_run: bool) -> None:
    path = planted(fifo(shared / "vmcore"))
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(PlanError, match="is a special file that user 65534 made in a directory that others can write"):
        dump(path, dry_run=dry_run)
    assert os.read(reader, 100) == b""
    os.close(reader)


@needs_root
def test_force_writes_to_a_pipe_of_somebody_else(shared: Path) -> None:
    path = planted(fifo(shared / "vmcore"))
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    dump(path, force=True)
    assert os.read(reader, 100).startswith(b"makedumpfile")
    os.close(reader)


@needs_root
@pytest.mark.parametrize("target", ["/dev/null", "/dev/stdout", "/proc/self/fd/2", "pipe"])
def test_a_planted_link_to_a_special_file_is_not_followed(shared: Path, tmp_path: Path, target: str) -> None:
    if target == "pipe":
        target = str(fifo(tmp_path / "ours"))
    path = planted(link(shared / "vmcore", target))
    with pytest.raises(PlanError, match=f"leads over {path}, a link that user 65534 made"):
        dump(path)
    with pytest.raises(PlanError, match=f"leads over {path}, a link that user 65534 made"):
        dump(link(tmp_path / "ours too", path))


@needs_root
def test_a_planted_link_to_a_directory_is_not_followed_to_a_device(shared: Path) -> None:
    path = planted(link(shared / "place", "/dev"))
    with pytest.raises(PlanError, match=f"leads over {path}, a link that user 65534 made"):
        dump(path / "null")


@needs_root
def test_a_pipe_in_a_directory_of_somebody_else_gets_nothing(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o755)
    planted(tmp_path / "theirs")
    with pytest.raises(PlanError, match="user 65534 made"):
        dump(planted(fifo(tmp_path / "theirs" / "vmcore")))


@needs_root
def test_a_pipe_of_somebody_else_where_only_we_can_put_one(tmp_path: Path) -> None:
    """As a service has it, in a directory that root made for it."""
    tmp_path.chmod(0o755)
    path = planted(fifo(tmp_path / "vmcore"))
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    dump(path)
    os.close(reader)


@pytest.mark.parametrize("way", ["vmcore", "link"])
def test_our_own_pipe_in_a_shared_directory(shared: Path, way: str) -> None:
    fifo(shared / "vmcore")
    link(shared / "link", "vmcore")
    reader = os.open(shared / way, os.O_RDONLY | os.O_NONBLOCK)
    dump(shared / way)
    assert os.read(reader, 100).startswith(b"makedumpfile")
    os.close(reader)


@needs_root
def test_a_planted_link_to_a_file_is_replaced_and_not_followed(shared: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("ours")
    for target in (precious, tmp_path / "nothing"):
        path = planted(link(shared / "vmcore", target))
        with pytest.raises(PlanError, match="exists"):
            dump(path)
        dump(path, force=True)
        assert not path.is_symlink() and path.stat().st_uid == 0 and stat.S_IMODE(path.stat().st_mode) == 0o600
        path.unlink()
    assert precious.read_text() == "ours"
    assert not (tmp_path / "nothing").exists()


def test_what_comes_through_a_pipe_is_kept_without_a_name(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In TMPDIR, which others can look into."""
    monkeypatch.setenv("TMPDIR", str(shared))
    reader, writer = os.pipe()
    os.write(writer, b"secret! " * 512)
    os.close(writer)
    with contextlib.closing(FileBacking.open(f"/proc/self/fd/{reader}")) as backing:
        assert backing.read(0, 8) == b"secret! "
        assert list(shared.iterdir()) == []
        assert stat.S_IMODE(os.fstat(backing.fd).st_mode) == 0o600
    os.close(reader)


def test_a_pipe_without_a_reader_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="^nobody reads from the pipe .*; start its reader first$"):
        dump(fifo(tmp_path / "vmcore"))


def test_a_terminal_by_its_name_is_refused() -> None:
    ours, theirs = pty.openpty()
    with pytest.raises(PlanError, match="is a terminal"):
        DescriptorSink.special(os.ttyname(theirs))
    os.close(ours)
    os.close(theirs)


def test_a_block_device_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    try:
        os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 250))
    except PermissionError:
        pytest.skip("only root can make a block device")
    for dry in (False, True):
        with pytest.raises(PlanError, match="is a block device; --force overwrites what is on it"):
            DescriptorSink.special(str(path), dry=dry)


def test_links_that_lead_in_a_circle_are_one_error(tmp_path: Path) -> None:
    link(tmp_path / "a", "b")
    link(tmp_path / "b", "a")
    with pytest.raises(SinkError, match="Too many levels of symbolic links"):
        dump(tmp_path / "a")
