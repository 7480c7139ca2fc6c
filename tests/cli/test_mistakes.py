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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("dir", "-d", "31"), "-d is an option of dump; write it after --: -- -d"),
        (("dir", "--format", "elf"), "--format is an option of dump; write it after --: -- --format"),
        (("dir", "--nonsense"), "No such option: --nonsense; see pydump watch --help"),
        (("dir", "vmcore"), "vmcore is not an option of dump; watch names the dumps; only options follow DIR and --"),
        (("dir", "--", "--qqqq"), "No such option: --qqqq; see pydump dump --help"),
        (("dir", "--", "-d", "99"), "there is no dump level 99; a level is 0 to 31: a sum of 1, 2, 4, 8 and 16"),
        (("dir", "--", "--max-rate", "fast"), "'fast' is not a rate; write bytes per second: 200M or 1048576"),
        (("dir", "--", "--split", "2"), "--split does not go with watch"),
        (("file",), "file is not a directory; name a directory for the dumps"),
        (("file/below",), "file is not a directory; name a directory for the dumps"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_watch_is_checked_before_its_guest_is_there(
    words: tuple[str, ...], said: str, refuse: Refuse, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    assert refuse(2, "watch", "qmp:nowhere", *words).replace(f"{tmp_path}/", "") == said


def test_a_watch_without_a_guest_makes_no_directory(refuse: Refuse) -> None:
    assert refuse(1, "watch", "qmp:nowhere", "dir/below").startswith("cannot connect to nowhere")


@pytest.mark.parametrize("words", [("--vmlinux", "nowhere"), ("nowhere",)], ids=["vmlinux", "script"])
def test_a_shell_opens_its_files_first(words: tuple[str, ...], source: bytes, refuse: Refuse) -> None:
    assert refuse(1, "shell", "in", *words) == "cannot open nowhere: No such file or directory"


def test_an_error_is_not_added_to_memory_on_standard_output(source: bytes, run: Callable[..., Any]) -> None:
    done = run("--json", "read", "in", "0xfff00000", "16")
    assert (done.code, done.raw) == (1, b"")


def test_new_plugin_says_in_json_what_it_made(run: Callable[..., Any]) -> None:
    made = json.loads(run("new-plugin", "compressor", "fast", "--json").out)
    assert made == {"schema": 1, "role": "compressor", "name": "fast", "folder": "pydump-compressor-fast"}


@pytest.mark.parametrize(
    ("output", "words", "form", "compression"),
    [
        ("vmcore", (), "kdump", "zlib"),
        ("vmcore.elf", (), "elf", "none"),
        ("a.b.raw", (), "raw", "none"),
        ("vmcore.lime", (), "lime", "none"),
        ("vmcore.ELF", (), "elf", "none"),
        ("vmcore.Kdump-LZO", (), "kdump", "lzo"),
        ("vmcore.kdump-lzo", (), "kdump", "lzo"),
        ("vmcore.elf", ("--format", "kdump"), "kdump", "zlib"),
        ("vmcore.vmware", (), "kdump", "zlib"),  # it is not written
        ("vmcore.xz", (), "kdump", "zlib"),
        ("elf", (), "kdump", "zlib"),
    ],
)
def test_an_output_may_end_with_its_format(
    output: str, words: tuple[str, ...], form: str, compression: str, source: bytes, run: Callable[..., Any]
) -> None:
    report = json.loads(run("dump", "in", output, *words, "--json", "--dry-run").out)
    assert (report["format"], report["compression"]) == (form, compression)


@pytest.mark.parametrize("ending", ["elf.gz", "xz", "ZST", "dmp", "vmware"])
def test_a_name_that_ends_as_another_file_says_that_it_is_a_kdump(
    ending: str, source: bytes, run: Callable[..., Any]
) -> None:
    (remark,) = json.loads(run("dump", "in", f"out.{ending}", "--json", "--dry-run").out)["remarks"]
    last = ending.rpartition(".")[2].lower()
    assert remark == f"it is a kdump, though its name ends with .{last}; --format chooses another"
    for words in (("out",), ("out.elf",), ("out.7",), (f"out.{ending}", "--format", "kdump")):
        assert json.loads(run("dump", "in", *words, "--json", "--dry-run").out)["remarks"] == []


def test_the_list_of_commands_is_not_cut(run: Callable[..., Any]) -> None:
    commands = run("--help").out.split("Commands:\n")[1].splitlines()
    assert len(commands) > 10
    assert [line for line in commands if line.endswith("...")] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--begin", "1T"), "there is no guest memory from 0x10000000000 on; RAM is at "),
        (("--format", "elf", "--compression", "lzo"), "leave --compression out, or write --format kdump"),
        (("--arch", "s390x"), "--arch says s390x, but the source is a guest of x86_64; leave --arch out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_a_dump_cannot_do_is_said_with_a_way_out(
    words: tuple[str, ...], said: str, source: bytes, refuse: Refuse
) -> None:
    assert said in refuse(2, "dump", "in", "out", *words)
