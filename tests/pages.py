"""What the documentation tells people to type, and how it is run.

A ``console`` block is run line by line: what follows ``$`` is a command, the lines below it are what it prints, where
``…`` stands for anything. A block under ``<!-- not run: reason -->`` is not run. ``python`` blocks are run, and a block
under ``<!-- file: path -->`` becomes that file.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
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
    """The blocks of a page."""
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


def installs(page: str) -> bool:
    """Does the page have something installed? Then it needs an environment of its own."""
    return any(
        command.startswith("pip install")
        for block in blocks(page)
        if block.kind == "console" and block.word != "not run"
        for command, _ in commands(block.body)
    )


def follow(page: str, place: Path, variables: Mapping[str, str], python: str, *, skip: bool = True) -> None:
    """Do in ``place`` what a page says.

    Args:
        page: Its path in the repository.
        place: Where.
        variables: The environment.
        python: What runs ``python`` blocks.
        skip: Leave out what is marked as not run.
    """
    activated = ""  # every command has a shell of its own, and what one of them activates is for those after it
    for block in blocks(page):
        if block.word == "file":
            path = place / block.what
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.body)
        elif block.word == "not run" and skip:
            assert len(block.what) > 10, "a reason"
        elif block.kind == "console":
            for command, shown in commands(block.body):
                run(activated + command, shown, place, variables)
                if command.startswith(". "):
                    activated += f"{command}; "
        elif block.kind == "python":
            done = subprocess.run(
                ["sh", "-c", f'{activated}exec {python} -c "$0"', block.body],
                cwd=place, env=variables, capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr


def run(command: str, shown: list[str], place: Path, variables: Mapping[str, str]) -> None:
    """Run a command, and compare what it prints."""
    done = subprocess.run(
        ["bash", "-c", command], cwd=place, env=variables, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=300,
    )  # fmt: skip
    said_so = "exit code" in command or any("fault" in line for line in shown)
    assert done.returncode == 0 or said_so, f"{command}: {done.stdout}"
    assert not shown or matches(shown, done.stdout), f"{command} printed:\n{done.stdout}"


def matches(shown: list[str], printed: str) -> bool:
    """Does what was printed match what is shown? A line ``…`` stands for any lines, ``…`` in a line for any text."""
    pattern = ""
    for line in shown:
        if line == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*?".join(re.escape(part) for part in line.split("…")) + r" *\n"
    return re.fullmatch(pattern, printed) is not None
