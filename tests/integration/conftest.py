"""Guests that are booted once and kept in $PYDUMP_LAB (default: ~/.cache/pydump-lab)."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from environments import build_wheels
from judges import require
from lab.boot import MACHINES, Guest, boot

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is an integration test."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def lab() -> Path:
    """Where kernels and guests are kept."""
    return Path(os.environ.get("PYDUMP_LAB") or Path.home() / ".cache" / "pydump-lab")


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheels of everything here and of all that it needs. Test processes share it."""
    directory = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        directory = directory.parent  # which is theirs in common
    directory /= "wheels"
    directory.mkdir(exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "done").exists():
            build_wheels(directory)
            (directory / "done").touch()
    return directory / "wheels"


@pytest.fixture(scope="session")
def guest(lab: Path) -> Callable[[str], Guest]:
    """Gives the booted guest of an architecture."""
    guests: dict[str, Guest | str] = {}

    def get(arch: str) -> Guest:
        machine = MACHINES[arch]
        require(shutil.which(machine.qemu), machine.qemu, f"apt install {machine.package}")
        require(shutil.which("cpio"), "cpio", "apt install cpio")
        if arch not in guests:
            try:
                guests[arch] = boot(arch, lab)
            except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                guests[arch] = str(error)
        found = guests[arch]
        require(isinstance(found, Guest), f"the {arch} guest", str(found))
        assert isinstance(found, Guest)
        return found

    return get


@pytest.fixture(scope="session")
def pydump() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command, and fails the test unless its exit code is what is expected."""

    def run(*arguments: str | Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "pydump", *map(str, arguments)], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == expect, f"pydump {arguments}: exit code {done.returncode}: {done.stderr}{done.stdout}"
        return done

    return run
