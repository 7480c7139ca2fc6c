"""With ``--json`` an error is an object on standard output, beside its line on standard error."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (2, ("dump", "raw:ram", "out")),
        (1, ("dump", "nowhere", "out")),
        (2, ("dump", "raw:ram", "out", "--detach", "--dry-run")),
        (1, ("info", "nowhere")),
        (1, ("compare", "nowhere", "elsewhere")),
        (1, ("map", "nowhere")),
        (2, ("dmesg", "raw:ram", "--arch", "x86_64")),
        (2, ("status", "99999")),
        (1, ("storage", "clean", "nowhere/x")),
        (2, ("batch", "--each", "no-*-match", "verify")),
        (1, ("batch", "nowhere")),
        (2, ("dump", "raw:ram")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_an_error_is_an_object_too(run: Run, tmp_path: Path, code: int, arguments: tuple[str, ...]) -> None:
    (tmp_path / "ram").write_bytes(bytes(8192))
    name, *rest = arguments
    done = run(name, "--json", *rest)
    value = json.loads(done.out)
    assert (done.code, value["schema"], value["exit_code"]) == (code, 1, code)
    said = value["error"] + (f"; {value['hint']}" if value["hint"] else "")
    assert done.err == f"pydump: error: {said}\n"


def test_json_before_the_command_is_the_same(run: Run) -> None:
    value = json.loads(run("--json", "size", "nowhere").out)
    assert value == {
        "schema": 1, "error": "cannot open nowhere: No such file or directory", "hint": None, "exit_code": 1
    }  # fmt: skip


def test_an_error_is_not_added_to_a_dump_on_standard_output(run: Run, tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(bytes(8192))
    done = run("dump", "--json", "raw:ram", "-", "--arch", "x86_64", "--format", "vmware")
    assert (done.code, done.raw) == (2, b"")
    assert done.err.startswith("pydump: error: format vmware can be read but not written")


def test_each_of_several_files_has_its_error_in_one_object(run: Run, tmp_path: Path) -> None:
    done = run("info", "--json", "nowhere", "elsewhere")
    first, second = json.loads(done.out)["files"]
    assert first == {
        "path": "nowhere", "error": "cannot open nowhere: No such file or directory", "hint": None, "exit_code": 1
    }  # fmt: skip
    assert second["path"] == "elsewhere"


@pytest.mark.parametrize("command", [["info"], ["read", "0", "0x10000", "--hex"]])
def test_a_reader_that_goes_away_ends_the_command_as_sigpipe_does(
    pydump_command: list[str], tmp_path: Path, command: list[str]
) -> None:
    """A shell says 141 of the programs of a pipe that ``head`` ends, and nothing is printed."""
    (tmp_path / "ram").write_bytes(bytes(1 << 16))
    name, *rest = command
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*pydump_command, "--arch", "x86_64", name, "raw:ram", *rest],
        stdout=writer, stderr=subprocess.PIPE, cwd=tmp_path, timeout=60,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
