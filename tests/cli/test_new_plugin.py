"""pydump new-plugin: what it refuses, and the names it gives; that its plugins work is an integration test."""

from __future__ import annotations

import ast
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    "asked",
    [
        ("arch",),
        ("compressor",),
        ("executor",),
        ("filter",),
        ("format",),
        ("format", "--memory-only"),
        ("source",),
        ("storage",),
    ],
)
def test_every_name_is_the_new_one(asked: tuple[str, ...], run: Callable[..., Any], tmp_path: Path) -> None:
    role, *options = asked
    assert run("new-plugin", role, "lz_fast2", *options).code == 0
    folder = tmp_path / f"pydump-{role}-lz-fast2"
    package = f"pydump_{role}_lz_fast2"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "README.md",
        "pyproject.toml",
        f"src/{package}/__init__.py",
        f"src/{package}/py.typed",
        f"tests/test_{role}_lz_fast2.py",
    ]
    assert not [path for path in folder.rglob("*.*") if "skeleton" in path.read_text().lower()]
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == folder.name
    assert project["entry-points"] == {"pydump": {f"{role}-lz-fast2": package}}
    code = ast.parse((folder / f"src/{package}/__init__.py").read_text())
    assert f"LzFast2{role.capitalize()}" in [node.name for node in code.body if isinstance(node, ast.ClassDef)]


@pytest.mark.parametrize("name", ["", "Zip", "9z", "a-b", "_a", "a_", "a__b", "a b", "../a", "a/b", "ä", "-", "a\n"])
def test_names_that_are_none(name: str, refuse: Callable[..., str]) -> None:
    arguments = ("--", name) if name.startswith("-") else (name,)
    assert "cannot be a plugin's name; write lower-case letters" in refuse(2, "new-plugin", "format", *arguments)


def test_a_role_that_is_none(refuse: Callable[..., str]) -> None:
    assert refuse(2, "new-plugin", "codec", "tape") == (
        "no template for a plugin of role 'codec'; "
        "available: arch, format, compressor, executor, filter, source, storage"
    )


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("compressor", "zlib"),
        ("compressor", "none"),
        ("arch", "amd64"),
        ("executor", "local"),
        ("source", "raw"),
        ("storage", "fd"),
    ],
)
def test_a_name_that_is_taken(role: str, name: str, refuse: Callable[..., str]) -> None:
    assert refuse(2, "new-plugin", role, name) == f"the {role} name {name!r} is taken; pydump plugins lists the names"


def test_only_a_format_holds_memory_alone(refuse: Callable[..., str]) -> None:
    assert refuse(2, "new-plugin", "source", "tape", "--memory-only") == "--memory-only is for formats; leave it out"


def test_a_new_compressor_is_told_who_can_use_it(run: Callable[..., Any]) -> None:
    said = " ".join(run("new-plugin", "compressor", "lz_fast2").out.split())
    assert said.startswith("A dump is compressed only with a compressor that its format names in `compressors`;")
    assert "kdump (zlib, lzo, snappy, zstd)" in said


def test_nothing_is_overwritten(refuse: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "pydump-arch-vax").mkdir()
    assert refuse(2, "new-plugin", "arch", "vax").startswith("pydump-arch-vax exists")


def test_where_nothing_can_be_written_nothing_is_left(pydump_command: list[str], tmp_path: Path) -> None:
    command = shlex.join([*pydump_command, "new-plugin", "source", "tape"])
    done = subprocess.run(
        ["sh", "-c", f"ulimit -f 0; {command}"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr == "pydump: error: cannot write pydump-source-tape: File too large; nothing was left\n"
    assert list(tmp_path.iterdir()) == []


def test_other_commands_do_not_pay_for_it(pydump_command: list[str]) -> None:
    command = [*pydump_command[:-2], "-X", "importtime", *pydump_command[-2:], "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "new-plugin" in done.stdout
    assert "pydump.cli.app" in done.stderr and "pydump.cli.skeleton" not in done.stderr
