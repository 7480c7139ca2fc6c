"""A big-endian host, emulated: pydump says and writes there what it does here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judges import require

SCRIPTS = Path(__file__).parent / "lab"
#: Small guests of both byte orders, and of both word sizes.
GUESTS = ("bare-s390x", "bare-aarch64", "bare-arm", "mini-x86_64-smp2", "nano-x86_64")
#: What no library compresses is the same byte for byte; what is compressed depends on the library's version.
PLAIN = ("elf", "kdump", "flattened")


@pytest.fixture(scope="module")
def python(lab: Path) -> Path:
    """Python of s390x, run by qemu-user."""
    require(shutil.which("qemu-s390x-static"), "qemu-s390x-static", "apt install qemu-user-static")
    program = lab / "host-s390x" / "python"
    if not program.exists():
        done = subprocess.run(
            [SCRIPTS / "fetch-host", "s390x", program.parent], capture_output=True, text=True, timeout=300
        )
        require(done.returncode == 0, "a Python of s390x", done.stderr)
    return program


@pytest.fixture(scope="module")
def dumps(qemu: Callable[[str, str], Path]) -> list[Path]:
    """QEMU's dumps of the guests."""
    return [qemu(guest, name) for guest in GUESTS for name in ("elf", "kdump-zlib")]


def written(python: str | Path, wheels: Path, directory: Path, dumps: list[Path]) -> dict[str, Any]:
    """What ``write_dumps.py`` prints on one of the hosts. The files are left in ``directory / "out"``."""
    site = directory / "site"
    for wheel in wheels.glob("pydump_*.whl"):
        zipfile.ZipFile(wheel).extractall(site)
    (directory / "out").mkdir()
    command = [python, SCRIPTS / "write_dumps.py", directory / "out", *dumps]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(site)}
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_big_endian_host_reads_and_writes_the_same(
    python: Path, wheels: Path, dumps: list[Path], tmp_path: Path, pydump: Callable[..., Any]
) -> None:
    order = subprocess.run(
        [python, "-c", "import sys; print(sys.byteorder)"], capture_output=True, text=True, timeout=60
    )
    assert order.stdout == "big\n"
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    here = written(sys.executable, wheels, tmp_path / "here", dumps)
    there = written(python, wheels, tmp_path / "there", dumps)
    assert here.keys() == there.keys()
    for name, mine in here.items():
        theirs = there[name]
        assert mine["facts"] == theirs["facts"], name
        assert {form: mine["written"][form] for form in PLAIN} == {form: theirs["written"][form] for form in PLAIN}, (
            name
        )
        for form in mine["written"].keys() - set(PLAIN):
            files = [tmp_path / host / "out" / f"{name}-{form}" for host in ("here", "there")]
            pydump("compare", *files)
