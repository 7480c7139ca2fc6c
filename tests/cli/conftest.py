from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import in_fork


@dataclass(frozen=True)
class Done:
    """What a command did."""

    code: int
    out: str
    err: str
    raw: bytes


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Done]:
    """Runs ``pydump`` in a directory of its own; with ``env`` as a program that is started anew."""

    def command(*arguments: str | Path, stdin: bytes = b"", env: dict[str, str] | None = None) -> Done:
        if env is None:
            done = in_fork.run(*map(str, arguments), stdin=stdin, cwd=tmp_path, timeout=120)
        else:
            done = subprocess.run(
                [*in_fork.COMMAND, *map(str, arguments)],
                input=stdin, capture_output=True, cwd=tmp_path, timeout=120, env=env,
            )  # fmt: skip
        return Done(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode(), done.stdout)

    return command


@pytest.fixture
def refuse(run: Callable[..., Done], tmp_path: Path) -> Callable[..., str]:
    """Runs a command that must fail in one line, with an exit code, and leave the directory as it was."""

    def command(code: int, *arguments: str | Path, stdin: bytes = b"") -> str:
        before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
        done = run(*arguments, stdin=stdin)
        assert done.code == code, f"exit code {done.code}: {done.err}"
        assert done.err.startswith("pydump: error: "), done.err
        assert done.err.count("\n") == 1, done.err
        assert "Traceback" not in done.err
        assert "internal error" not in done.err
        assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        return done.err.removeprefix("pydump: error: ").rstrip("\n")

    return command


@pytest.fixture
def pydump_command() -> list[str]:
    """How ``pydump`` is started, for tests that set up its streams and limits themselves."""
    return in_fork.COMMAND
