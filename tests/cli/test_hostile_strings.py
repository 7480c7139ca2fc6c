"""What files, guests and monitors say reaches the terminal with nothing in it that the terminal obeys."""

from __future__ import annotations

import json
import os
import pty
import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pydump
from pydump.cli import console, render
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap
from pydump.model.note import Note
from pydump.model.vmcoreinfo import Vmcoreinfo

#: Sets a window's title, clears the screen by one C1 control, forges a row, deletes, and turns the text round.
HOSTILE = "\x1b]0;owned\x07\x9b2J\x7f\r\u202eabc\u2066\u200f\u061c"
#: What a terminal obeys. Source: ECMA-48, 5.2 and 5.3; Unicode's UAX #9.
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """An ELF whose release and note names are hostile, in a file whose name is."""
    text = Vmcoreinfo(f"OSRELEASE=6.1{HOSTILE}\nPAGESIZE=4096\n".encode())
    notes = (Note("EV\x1b[31mIL", 7, b""), Note("A\nkernel        forged", 8, b""))
    guest = Guest(MemoryMap(()), arch="riscv64", byte_order="little", vmcoreinfo=text, notes=notes)
    path = tmp_path / f"in{HOSTILE}\nforged row"
    pydump.dump(pydump.BytesImage(guest, {0: bytes(8192)}), path, format="elf", workers=1, sync=False)
    return path


@pytest.mark.parametrize(
    "character", [*map(chr, range(32)), "\x7f", *map(chr, range(0x80, 0xA0)), *"\u061c\u200e\u200f"]
)
def test_controls_are_written_out(character: str) -> None:
    number = ord(character)
    written = f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"
    assert console.visible(f"a{character}b") == f"a{written}b"


@pytest.mark.parametrize("text", ["", "Linux 6.1.0-50-amd64", "größe", "内存", "a\\b", "🦊", "\u00a0"])
def test_text_stays_as_it_is(text: str) -> None:
    assert console.visible(text) == text


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", "IN"),
        ("info", "IN", "--notes"),
        ("verify", "IN"),
        ("compare", "IN", "raw.bin"),
        ("compare", "IN", "OTHER"),
        ("dump", "IN", f"out{HOSTILE}", "--format", "elf"),
        ("dump", "IN", "out", "-v"),
        ("dump", "IN", "out", "--arch", f"x{HOSTILE}"),
        ("dump", "IN", f"no{HOSTILE}/out"),
        ("info", f"nosuch{HOSTILE}"),
        ("read", "IN", "5G", "16"),
        ("read", "IN", HOSTILE, "16"),
        ("map", "IN"),
        ("map", "IN", "-o", f"out{HOSTILE}.svg"),
        ("--arch", HOSTILE),
        (f"no{HOSTILE}",),
        ("status", f"x{HOSTILE}"),
        ("new-plugin", "format", HOSTILE),
    ],
)
def test_no_command_prints_what_a_terminal_obeys(
    arguments: tuple[str, ...], hostile: Path, run: Callable[..., Any], tmp_path: Path
) -> None:
    other = bytearray(hostile.read_bytes())
    other[-1] ^= 1
    (tmp_path / "other").write_bytes(other)
    (tmp_path / "raw.bin").write_bytes(b"x" * 8192)
    names = {"IN": hostile.name, "OTHER": "other"}
    done = run(*[names.get(a, a) for a in arguments])
    for said in (done.raw.decode(), done.err):
        assert not OBEYED.search(said), said
        assert not any(line.startswith(("forged", "kernel        forged")) for line in said.splitlines())
    assert "internal error" not in done.err


def test_a_release_is_shown_with_its_controls_written_out(hostile: Path, run: Callable[..., Any]) -> None:
    shown = run("info", hostile.name, "--notes").out
    assert r"Linux 6.1\x1b]0;owned\x07\x9b2J\x7f\x0d\u202eabc" in shown
    assert r"EV\x1b[31mIL" in shown


def test_vmcoreinfo_is_raw_in_a_pipe_and_written_out_on_a_terminal(
    hostile: Path, run: Callable[..., Any], pydump_command: list[str], tmp_path: Path
) -> None:
    assert run("info", hostile.name, "--vmcoreinfo").raw == f"OSRELEASE=6.1{HOSTILE}\nPAGESIZE=4096\n".encode()
    ours, theirs = pty.openpty()
    done = subprocess.Popen([*pydump_command, "info", hostile.name, "--vmcoreinfo"], cwd=tmp_path, stdout=theirs)
    assert done.wait(60) == 0
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert shown.splitlines()[-1] == "PAGESIZE=4096"
    assert not OBEYED.search(shown.replace("\r\n", "\n"))


def test_json_is_ascii_without_controls(hostile: Path, run: Callable[..., Any]) -> None:
    raw = run("info", hostile.name, "--notes", "--json").raw
    assert not re.search(rb"[^\n\x20-\x7e]", raw)
    assert json.loads(raw)["utsname"]["release"] == f"6.1{HOSTILE}"


def test_a_table_on_a_terminal_has_no_controls_of_a_cell(capsys: pytest.CaptureFixture[str]) -> None:
    render.grid(("job", "status"), [("1", f"failed: {HOSTILE}\n2  forged")])
    render.table([("file", f"{HOSTILE}\nkernel        forged")])
    assert not OBEYED.search(capsys.readouterr().out)


def test_damage_in_a_file_with_any_name_is_reported(tmp_path: Path, run: Callable[..., Any]) -> None:
    """A name that is no UTF-8, with a newline in it: one line for each fault, from any worker."""
    guest = Guest(MemoryMap(()), arch="riscv64", byte_order="little")
    path = os.fsdecode(bytes(tmp_path) + b"/\xff\nforged")
    pydump.dump(pydump.BytesImage(guest, {0: b"abcd" * 4096}), path, compression="zlib", workers=1, sync=False)
    data = bytearray(Path(path).read_bytes())
    block, sub, bitmaps = struct.unpack_from("<iiI", data, 428)
    struct.pack_into("<I", data, (1 + sub + bitmaps) * block + 8, 3)
    Path(path).write_bytes(data)
    done = run("verify", path)
    assert done.code == 4
    assert r"\xff\x0aforged" in done.out
    assert "internal error" not in done.err
