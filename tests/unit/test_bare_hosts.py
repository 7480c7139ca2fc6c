"""Hosts that lack what others have: a container may have /dev/shm read-only, and a chroot no /proc."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs pydump in a mount namespace of its own, after a mount there."""
    (tmp_path / "ram").write_bytes(b"memory! " * (1 << 20))
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mount namespaces cannot be made here")

    def run(mount: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-m", "pydump"]
        done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        if "mount: " in done.stderr:
            pytest.skip(f"it cannot be mounted here: {done.stderr}")
        return done

    return run


DUMP = ("dump", "raw:ram@0", "out", "--arch", "x86_64", "--format", "elf")
READ_ONLY = "mount -t tmpfs -o ro none /dev/shm"
NO_PROC = "mount -t tmpfs none /proc"


def test_without_semaphores_one_process_encodes(run: Run, tmp_path: Path) -> None:
    done = run(READ_ONLY, *DUMP, "--json", "-v")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["workers"] == 1
    assert done.stderr == "pydump: one process does all the work: semaphores in /dev/shm: Read-only file system\n"
    assert (tmp_path / "ram").read_bytes() in (tmp_path / "out").read_bytes()


def test_without_semaphores_workers_are_refused(run: Run, tmp_path: Path) -> None:
    done = run(READ_ONLY, *DUMP, "--workers", "2")
    assert done.returncode == 1
    assert done.stderr == (
        "pydump: error: workers cannot be started: semaphores in /dev/shm: Read-only file system; --workers 1 does "
        "without; or make /dev/shm writable\n"
    )
    assert not (tmp_path / "out").exists()


def test_without_proc_a_dump_is_written(run: Run, tmp_path: Path) -> None:
    done = run(NO_PROC, *DUMP)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "ram").read_bytes() in (tmp_path / "out").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "ram"]
