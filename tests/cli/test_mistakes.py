"""Mistakes that users make are told in one line that says what to do."""

from __future__ import annotations

import json
import lzma
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Refuse = Callable[..., str]
Qemu = Callable[[str, str], Path]


@pytest.mark.parametrize("rate", ["fast", "-1", "1.5M", "10 M/h"])
def test_a_rate_is_bytes_per_second(rate: str, refuse: Refuse) -> None:
    said = refuse(2, "dump", "in", "out", f"--max-rate={rate}")
    assert said == f"'{rate}' is not a rate; write bytes per second: 200M or 1048576"


@pytest.mark.parametrize("words", [("storage", "--json"), ("--json", "storage"), ("info", "--json"), ("--json", "no")])
def test_an_error_of_the_command_line_is_one_line_in_json(words: tuple[str, ...], run: Callable[..., Any]) -> None:
    done = run(*words)
    value = json.loads(done.out)
    assert done.err == f"pydump: error: {value['error']}; {value['hint']}\n"
    assert (done.code, "\n" in value["error"], "\t" in value["error"]) == (2, False, False)
    assert value["hint"].startswith("see pydump")


def test_storage_alone_names_its_commands(refuse: Refuse) -> None:
    assert refuse(2, "storage") == "Missing argument 'COMMAND'. Choose from: clean; see pydump storage --help"


@pytest.fixture
def source(qemu: Qemu, tmp_path: Path) -> bytes:
    data = qemu("nano-x86_64", "elf").read_bytes()
    (tmp_path / "in").write_bytes(data)
    (tmp_path / "packed").write_bytes(lzma.compress(data, preset=0))
    (tmp_path / "link").symlink_to("in")
    os.link(tmp_path / "in", tmp_path / "hard")
    return data


@pytest.mark.parametrize("more", [(), ("--force",), ("--force", "--dry-run"), ("--force", "--detach")])
@pytest.mark.parametrize(
    ("name", "output", "which"),
    [
        ("in", "in", "the input"),
        ("in", "link", "the same file as the input in"),
        ("link", "in", "the same file as the input link"),
        ("in", "hard", "the same file as the input in"),
        ("in", "./in", "the same file as the input in"),
        ("packed", "packed", "the input"),
        ("raw:in@0", "in", "the input"),
        ("in", "%d,in", "the input"),
    ],
)
def test_a_dump_does_not_replace_its_input(
    name: str, output: str, which: str, more: tuple[str, ...], source: bytes, refuse: Refuse
) -> None:
    split = ("--split", "2") if "," in output else ()
    words = ("dump", name, output.replace("%d", "other"), *split, *more, "--arch", "x86_64")
    target = output.rpartition(",")[2]
    assert refuse(2, *words) == f"{target} is {which}; write to another file"


def test_a_dump_is_not_appended_to_its_input(source: bytes, tmp_path: Path, pydump_command: list[str]) -> None:
    with (tmp_path / "in").open("ab") as out:
        done = subprocess.run(
            [*pydump_command, "dump", "in", "-"],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            timeout=60,
        )
    assert (done.returncode, (tmp_path / "in").read_bytes() == source) == (2, True)
    assert done.stderr == "pydump: error: standard output is the same file as the input in; write to another file\n"
