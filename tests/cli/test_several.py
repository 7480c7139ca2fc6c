"""``info`` and ``verify`` of several files: one that fails does not keep the command from the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Qemu = Callable[[str, str], Path]
Run = Callable[..., Any]


@pytest.fixture
def files(qemu: Qemu, tmp_path: Path) -> tuple[str, str, str]:
    """One with defects, one that is not there, and one that is bare memory."""
    (tmp_path / "ram").write_bytes(bytes(8192))
    return str(qemu("bare-aarch64", "kdump-zlib")), "nowhere", "raw:ram@0"


def test_verify_checks_every_file_and_exits_as_the_worst(files: tuple[str, str, str], run: Run) -> None:
    done = run("verify", *files)
    assert done.code == 4
    assert done.err.count("pydump: error: ") == 1
    assert "cannot open nowhere" in done.err
    assert "utsname lacks" in done.out
    assert "raw:ram@0: sound; 8.0 KiB" in done.out
    assert run("verify", *files[1:]).code == 1
    assert run("verify", files[2], files[2]).code == 0


def test_verify_takes_an_architecture(files: tuple[str, str, str], run: Run) -> None:
    assert run("verify", "--arch", "x86_64", files[2]).code == 0
    done = run("verify", files[2], "--arch", "vax")
    assert (done.code, "unknown arch 'vax'; available: " in done.err) == (2, True)


@pytest.mark.parametrize("command", ["info", "verify"])
def test_json_of_several_files_is_one_object(command: str, files: tuple[str, str, str], run: Run) -> None:
    done = run(command, "--json", *files)
    told = json.loads(done.out)
    assert told["schema"] == 1
    assert [one["path"] for one in told["files"]] == list(files)
    assert (told["files"][1]["exit_code"], "cannot open nowhere" in told["files"][1]["error"]) == (1, True)
    assert "schema" not in told["files"][0]
    alone = json.loads(run(command, "--json", files[2]).out)
    assert (alone["schema"], alone["path"]) == (1, files[2])


def test_info_shows_every_file(files: tuple[str, str, str], run: Run) -> None:
    done = run("info", *files)
    assert done.code == 1
    shown = done.out.split("\n\n")
    assert [one.split()[:2] for one in shown] == [["file", files[0]], ["file", files[2]]]


def test_each_message_says_which_of_the_files_it_is_about(
    files: tuple[str, str, str], qemu: Qemu, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "cut.elf").write_bytes(qemu("bare-aarch64", "elf").read_bytes()[:20000])
    said = run("info", "cut.elf", files[2], files[0]).err.splitlines()
    assert "pydump: warning: raw:ram@0: the source does not name the guest's architecture" in "\n".join(said)
    assert any(line.startswith("pydump: incomplete: cut.elf: ") for line in said)
    alone = run("info", files[2]).err
    assert alone.startswith("pydump: warning: the source does not name")


@pytest.mark.parametrize("command", ["verify", "map", "compare"])
def test_one_worker_finds_what_many_find(command: str, qemu: Qemu, run: Run) -> None:
    elf = str(qemu("nano-x86_64", "elf"))
    named = (elf, elf) if command == "compare" else (elf,)
    one, two = (json.loads(run(command, "--json", "--workers", n, *named).out) for n in ("1", "2"))
    assert one | {"seconds": 0} == two | {"seconds": 0}
