"""What the documentation tells people to type works as written, and prints what is shown.

A page's blocks share a directory that has a dump in it. Pages that have something installed are followed by
``tests/integration/test_pages_install.py``, each in an environment that has what it says and no more.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pages import PAGES, ROOT, blocks, follow, installs


@pytest.fixture
def place(qemu: Callable[[str, str], Path], tmp_path: Path) -> Path:
    """A directory with a dump, a vmcore, and the checkout's files at hand."""
    shutil.copyfile(qemu("linux-x86_64", "elf"), tmp_path / "qemu.elf")
    (tmp_path / "guest.save").symlink_to(ROOT / "tests/data/containers/running-xz.save")
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    return tmp_path


@pytest.fixture
def variables() -> dict[str, str]:
    """An environment in which pydump is the one that is tested."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "200"}


@pytest.mark.parametrize("page", [page for page in PAGES if any(True for _ in blocks(page)) and not installs(page)])
def test_what_the_page_says_happens(page: str, place: Path, variables: dict[str, str]) -> None:
    if "tutorials/first-dump" in page:
        (place / "qemu.elf").unlink()  # it makes it itself
        if not shutil.which("xz"):
            pytest.skip("apt install xz-utils: the page unpacks with it")
    if "reference/python" in page or "how-to/open" in page:  # they go on with one
        subprocess.run([sys.executable, "-m", "pydump", "dump", "-q", "qemu.elf", "vmcore"], cwd=place, check=True)
    follow(page, place, variables, sys.executable)


def test_no_code_stands_where_nothing_runs_it() -> None:
    """An indented block would be one; in Markdown it is told by the empty line above it."""
    for page in ("README.md", *PAGES):
        text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.M | re.S)
        assert not re.search(r"\n\n    +(?:import|from|def|class|\[\w+\]|\$) ?", text), page


def test_the_readmes_commands(place: Path, variables: dict[str, str]) -> None:
    """Those of its list that need nothing but a dump; the others say here why they are not run."""
    elsewhere = {"ssh ": "it takes another host", "qmp:": "it takes a guest",
                 "libvirt:": "it takes libvirt", "--vmlinux": "it takes the kernel's file",
                 "raw:": "it takes files of RAM"}  # fmt: skip
    lines = re.findall(r"^    (pydump .*?)(?:  +#.*)?$", (ROOT / "README.md").read_text(), re.M)
    ran = 0
    for line in lines:
        if any(word in line for word in elsewhere):
            continue
        done = subprocess.run(
            line.replace("pydump", f"{sys.executable} -m pydump", 1),
            shell=True,
            cwd=place,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
        ran += 1
    assert ran >= 10
    assert all(any(word in line for line in lines) for word in elsewhere)


def test_the_readmes_python(place: Path, variables: dict[str, str]) -> None:
    assert [block.kind for block in blocks("README.md")] == ["python"]
    follow("README.md", place, variables, sys.executable)
    assert (place / "vmcore.lzo").read_bytes().startswith(b"KDUMP   ")
