"""One rule for the exit code of a vmcore that was cut: 3 of all of it, 4 of a check, 0 or 1 of what was asked for."""

from __future__ import annotations

import gzip
import json
import lzma
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pydump

Run = Callable[..., Any]
#: Bytes at the end of the sound kdump that are cut off: those of its last pages.
CUT = 4096


@pytest.fixture(scope="module")
def cut(qemu: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files without their last pages, by format."""
    elf, made = qemu("nano-x86_64", "elf"), tmp_path_factory.mktemp("made")
    pydump.dump(elf, made / "kdump", compression="none", workers=1)
    pydump.dump(elf, made / "flat", compression="none", flatten=True, workers=1)
    files = {"elf": elf.read_bytes()}
    files |= {name: (made / name).read_bytes() for name in ("kdump", "flat")}
    return {name: data[:-CUT] for name, data in files.items()}


@pytest.mark.parametrize("form", ["elf", "kdump", "flat"])
@pytest.mark.parametrize(
    ("code", "words"),
    [
        (3, ["info", "in"]),
        (3, ["info", "--json", "in"]),
        (3, ["info", "in", "in"]),
        (3, ["map", "in", "--progress", "none"]),
        (3, ["map", "in", "-o", "map.svg", "--progress", "none"]),
        (3, ["size", "in"]),
        (3, ["dump", "in", "out"]),
        (4, ["verify", "in"]),
        (0, ["info", "in", "--paddr", "0x1000"]),
        (0, ["read", "in", "0x1000", "16"]),
        (1, ["read", "in", "0xffffff00", "16"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_exit_code_of_a_cut_file(
    form: str, code: int, words: list[str], cut: dict[str, bytes], tmp_path: Path, run: Run
) -> None:
    (tmp_path / "in").write_bytes(cut[form])
    done = run(*words)
    assert done.code == code, done.err
    assert ("pydump: incomplete: " in done.err) == (code == 3)


def headers_only(form: str, qemu: Callable[[str, str], Path], path: Path) -> bytes:
    """A file that ends before it states where all RAM is."""
    if form == "lime":  # within the second header
        return struct.pack("<IIQQQ", 0x4C694D45, 1, 0x1000, 0x1FFF, 0) + bytes(4096 + 16)
    elf = qemu("nano-x86_64", "elf")
    if form == "elf":  # behind the note, the first of its program headers
        data = elf.read_bytes()
        return data[: struct.unpack_from("<Q", data, 32)[0] + 56]  # e_phoff
    flat = form == "flat"
    pydump.dump(elf, path, format="kdump", compression="none", flatten=flat, workers=1)
    data = path.read_bytes()
    path.unlink()
    (blocks,) = struct.unpack_from("<I", data, 432 + (4096 + 16) * flat)  # sub_hdr_size
    if flat:
        return data[: 4096 + 16 + 4096]
    where = form.removesuffix(".gz").removesuffix(".xz")
    cut = data[: {"header": 4096, "notes": 4096 + 600, "bitmaps": (1 + blocks) * 4096}[where]]
    return gzip.compress(cut) if form.endswith("gz") else lzma.compress(cut) if form.endswith("xz") else cut


@pytest.mark.parametrize("form", ["header", "notes", "bitmaps", "bitmaps.gz", "notes.xz", "flat", "elf", "lime"])
def test_what_a_file_without_its_memory_map_lost_is_not_known(
    form: str, qemu: Callable[[str, str], Path], tmp_path: Path, run: Run
) -> None:
    (tmp_path / "in").write_bytes(headers_only(form, qemu, tmp_path / "in"))
    named = ["--arch", "x86_64"] if form == "lime" else []
    for command in ("info", "map", "size"):
        done = run(command, "in", *named)
        assert done.code == 3, done.err
        assert done.err.splitlines()[-1] == "pydump: incomplete: how much guest memory is lost is not known"
        assert "0 pages" not in done.err
        assert "0 block\n" not in done.out
    assert json.loads(run("info", "--json", "in").out)["unreadable_size"] is None
    assert run("verify", "in").code == 4
    assert run("dump", "in", "out", *named).code == (3 if named else 1)  # the others have no memory at all


@pytest.mark.parametrize("command", ["info", "map", "size"])
def test_quiet_does_not_hide_that_a_file_is_cut(command: str, cut: dict[str, bytes], tmp_path: Path, run: Run) -> None:
    (tmp_path / "in").write_bytes(cut["elf"])
    said = run(command, "-q", "in").err.splitlines()
    assert any("the file ends at" in line for line in said), said
    assert said[-1].startswith("pydump: incomplete: ")


def test_a_sound_file_is_complete(qemu: Callable[[str, str], Path], run: Run) -> None:
    for command in ("info", "map", "size"):
        assert run(command, "-q", qemu("nano-x86_64", "elf")).code == 0


def test_the_log_of_a_cut_file_says_that_it_is_cut(qemu: Callable[[str, str], Path], tmp_path: Path, run: Run) -> None:
    with qemu("linux-x86_64", "elf").open("rb") as file:
        (tmp_path / "in").write_bytes(file.read(1 << 20))
    done = run("dmesg", "in")
    assert done.code == 1
    warning, error = done.err.splitlines()
    assert warning.startswith("pydump: warning: the file ends at 0x100000,")
    assert error.endswith("is unreadable") and "excluded" not in error
