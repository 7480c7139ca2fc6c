"""What the documentation tells people to type works as written, and prints what is shown.

A ``console`` block is run line by line: what follows ``$`` is a command, the lines below it are what it prints, where
``…`` stands for anything. A block under ``<!-- not run: reason -->`` is not run. ``python`` blocks are run, and a block
under ``<!-- file: path -->`` becomes that file. A page's blocks share a directory that has a dump in it.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md") if "_" not in path.relative_to(ROOT).parts[1]
)
COMMENT = r"(?:^<!-- (?P<word>not run|file): (?P<what>.+?) -->\n)?"
BLOCK = re.compile(COMMENT + r"^```(?P<kind>\w+)\n(?P<body>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block: its kind, its text, and what the comment above it says."""

    kind: str
    body: str
    word: str
    what: str


def blocks(page: str) -> Iterator[Block]:
    text = (ROOT / page).read_text()
    for match in BLOCK.finditer(text):
        yield Block(match["kind"], match["body"], match["word"] or "", match["what"] or "")


def commands(body: str) -> Iterator[tuple[str, list[str]]]:
    """Each command, and the lines that it prints."""
    current: tuple[str, list[str]] | None = None
    for line in body.splitlines():
        if line.startswith("$ "):
            if current:
                yield current
            current = (line[2:], [])
        elif current:
            current[1].append(line)
    if current:
        yield current


def matches(shown: list[str], printed: str) -> bool:
    """Does what was printed match what is shown? A line ``…`` stands for any lines, ``…`` in a line for any text."""
    pattern = ""
    for line in shown:
        if line == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*?".join(re.escape(part) for part in line.split("…")) + r" *\n"
    return re.fullmatch(pattern, printed) is not None


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a dump, a vmcore, and the checkout's files at hand."""
    (tmp_path / "qemu.elf").write_bytes(lzma.decompress((ROOT / "tests/data/qemu/linux-x86_64/elf.xz").read_bytes()))
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if any(True for _ in blocks(page))])
def test_what_the_page_says_happens(page: str, place: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "200"}
    if "tutorials/first-dump" in page:
        (place / "qemu.elf").unlink()  # it makes it itself
        if not shutil.which("xz"):
            pytest.skip("apt install xz-utils: the page unpacks with it")
    if "pip install" in (ROOT / page).read_text():
        environment = installs_elsewhere(place, environment)
    if "reference/python" in page:
        subprocess.run([sys.executable, "-m", "pydump", "dump", "-q", "qemu.elf", "vmcore"], cwd=place, check=True)
    for block in blocks(page):
        if block.word == "file":
            path = place / block.what
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.body)
        elif block.word == "not run":
            assert len(block.what) > 10, "a reason"
        elif block.kind == "console":
            for command, shown in commands(block.body):
                run(command, shown, place, environment)
        elif block.kind == "python":
            done = subprocess.run(
                [sys.executable, "-c", block.body],
                cwd=place,
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, done.stderr


def run(command: str, shown: list[str], place: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-c", command], cwd=place, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
    )  # fmt: skip
    said_so = "exit code" in command or any("fault" in line for line in shown)
    assert done.returncode == 0 or said_so, f"{command}: {done.stdout}"
    assert not shown or matches(shown, done.stdout), f"{command} printed:\n{done.stdout}"


def installs_elsewhere(place: Path, environment: dict[str, str]) -> dict[str, str]:
    """An environment in which ``pip install`` puts things beside what is here, and changes nothing of it."""
    extra = place / ".extra"
    (place / "bin").mkdir()
    pip = place / "bin" / "pip"
    pip.write_text(
        f"#!/bin/sh\nshift\nexec {sys.executable} -m pip install --quiet --no-deps --target {extra} "
        '--disable-pip-version-check "$@"\n'
    )
    pip.chmod(0o755)
    return {**environment, "PATH": f"{place / 'bin'}:{environment['PATH']}", "PYTHONPATH": str(extra)}


def test_the_readmes_commands(place: Path) -> None:
    """Those of its list that need nothing but a dump; the others say here why they are not run."""
    elsewhere = {"part1,part2": "it takes a split dump", "ssh ": "it takes another host", "qmp:": "it takes a guest",
                 "raw:low.bin": "it takes files of RAM"}  # fmt: skip
    lines = re.findall(r"^    (pydump .*?)(?:  +#.*)?$", (ROOT / "README.md").read_text(), re.M)
    ran = 0
    for line in lines:
        if any(word in line for word in elsewhere):
            continue
        output = line.split()[3] if line.startswith("pydump dump") else None
        if output and (place / output).exists():
            (place / output).unlink()
        line = line.replace("compare a b", "compare qemu.elf vmcore")
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
