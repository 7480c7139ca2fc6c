"""Names of sources and outputs: what is wrong with one, and how to write it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
Refuse = Callable[..., str]


@pytest.fixture
def ram(tmp_path: Path) -> Path:
    """Bare memory."""
    (tmp_path / "ram").write_bytes(bytes(64 << 10))
    return tmp_path / "ram"


@pytest.mark.parametrize(
    ("source", "form"),
    [
        ("qmp:", "write qmp:SOCKET or qmp:HOST:PORT"),
        ("gdb:", "gdb:HOST:PORT or gdb:/path/to.sock"),
        ("raw:", "write raw:PATH@PADDR"),
        ("raw:@5", "write raw:PATH@PADDR"),
        ("fd:", "as in 3<vmcore pydump … fd:3"),
        ("fd:-1", "as in 3<vmcore pydump … fd:3"),
        ("file:", "name a file, or - for standard input"),
        ("", "name a file, or - for standard input"),
        (",", "name a file, or - for standard input"),
        ("memory:", "write memory://BUCKET/NAME"),
    ],
)
def test_a_source_without_its_argument_is_refused_with_the_right_form(refuse: Refuse, source: str, form: str) -> None:
    assert form in refuse(2, "dump", source, "out")


@pytest.mark.parametrize(
    ("output", "form"),
    [
        ("", "name a file, or - for standard output"),
        ("file:", "name a file, or - for standard output"),
        ("fd:", "as in 3>file pydump … fd:3"),
        ("fd:-1", "as in 3>file pydump … fd:3"),
        ("fd:x", "as in 3>file pydump … fd:3"),
        ("memory:", "memory keeps it in this process only; name a file"),
        ("memory://x", "memory://x would be lost when pydump ends"),
    ],
)
def test_an_output_that_leads_nowhere_is_refused(refuse: Refuse, ram: Path, output: str, form: str) -> None:
    assert form in refuse(2, "dump", "raw:ram", output, "--arch", "x86_64")


def test_no_part_of_a_split_dump_may_be_lost(refuse: Refuse, ram: Path) -> None:
    said = refuse(2, "dump", "raw:ram", "one,memory://two", "--split", "2", "--arch", "x86_64")
    assert "memory://two would be lost" in said


def test_an_output_with_a_comma_is_one_file_and_says_so(run: Run, ram: Path, tmp_path: Path) -> None:
    done = run("dump", "raw:ram", "a,b", "--arch", "x86_64")
    assert done.code == 0
    assert "warning: a,b is one file, with a comma in its name; --split writes several\n" in done.err
    assert (tmp_path / "a,b").exists()


def test_an_unknown_format_lists_those_that_can_be_written(refuse: Refuse, ram: Path) -> None:
    from pydump.registry import installed

    said = refuse(2, "dump", "raw:ram", "out", "--arch", "x86_64", "--format", "vmdk")
    listed = said.split("available: ")[1].split(";")[0].split(", ")
    assert listed == [cls.name for cls in installed().formats() if cls.writes()]
    assert "vmware" not in listed


def test_hidden_files_of_killed_dumps_are_listed_and_removed(run: Run, tmp_path: Path) -> None:
    """They are left where a file system has no files without names, as vfat and NFS."""
    left = tmp_path / ".pydump-0123456789abcdef"
    left.write_bytes(bytes(5000))
    (tmp_path / ".pydump-notes").write_bytes(b"the user's own")
    for place in (".", f"file://{tmp_path}", "vmcore"):
        done = run("storage", "clean", place)
        assert (done.code, done.err) == (0, "")
        assert str(left.name) in done.out and "4.9 KiB" in done.out
    assert left.exists()
    assert run("storage", "clean", ".", "--remove").code == 0
    assert os.listdir(tmp_path) == [".pydump-notes"]
    assert run("storage", "clean", ".").err == "pydump: no unfinished dump is left at .\n"


def test_storage_clean_says_where_nothing_can_be_left(run: Run, refuse: Refuse) -> None:
    done = run("storage", "clean", "fd:3")
    assert done.code == 0
    assert done.err == "pydump: a dump that is killed leaves nothing at fd:3: fd keeps no unfinished dumps\n"
    assert "cannot list nowhere: No such file" in refuse(1, "storage", "clean", "nowhere/vmcore")
