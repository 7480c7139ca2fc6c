"""Bad input: one line that says what happened, the right exit code, and nothing at the target."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pydump
from pydump.errors import PydumpError

Qemu = Callable[[str, str], Path]
Refuse = Callable[..., str]
#: Bare memory of a guest of which only the architecture is known.
BARE = ("raw:in@0", "out", "--arch", "x86_64")


@pytest.fixture(scope="module")
def files(qemu: Qemu, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Small sound files of every kind."""
    directory = tmp_path_factory.mktemp("sound")
    elf = qemu("nano-x86_64", "elf")
    made = {"elf": elf.read_bytes(), "qemu-kdump": qemu("nano-x86_64", "kdump-zlib").read_bytes()}
    for name, options in {"kdump": {}, "flat": {"flatten": True}, "raw-kdump": {"compression": "none"}}.items():
        pydump.dump(str(elf), str(directory / name), **{"compression": "zlib", **options})  # type: ignore[arg-type]
        made[name] = (directory / name).read_bytes()
    pydump.dump(str(qemu("bare-arm", "elf")), str(directory / "arm"), compression="lzo")
    made["arm-kdump"] = (directory / "arm").read_bytes()
    made["s390x-elf"] = qemu("bare-s390x", "elf").read_bytes()[: 1 << 20]
    return made


#: Offsets within a small kdump: in the header, the sub header, the notes, both bitmaps, descriptors, and pages.
KDUMP_CUTS = (1, 8, 100, 463, 4095, 4096, 4150, 4199, 4300, 5000, 8192, 9000, 8192 + 131072, 8192 + 200000, -24, -1)
#: In the ELF header, and before the first program header, which QEMU has behind its section headers.
ELF_CUTS = (1, 4, 15, 40, 63, 64, 100, 240)


def cut_kdump_code(cut: int) -> int:
    """The exit code of a dump of a kdump that was cut off: one that holds no memory, or one that lacks some."""
    return 1 if 0 <= cut <= 8192 else 3


@pytest.mark.parametrize("cut", KDUMP_CUTS)
def test_a_kdump_cut_off_anywhere(
    cut: int, files: dict[str, bytes], tmp_path: Path, refuse: Refuse, run: Callable[..., Any]
) -> None:
    (tmp_path / "in").write_bytes(files["kdump"][:cut])
    code = cut_kdump_code(cut)
    if code != 3:
        refuse(code, "dump", "in", "out", "--compression", "lzo")
        return
    done = run("dump", "in", "out", "--compression", "lzo")
    assert (done.code, "Traceback" in done.err) == (3, False), done.err
    assert "unreadable" in done.err
    (tmp_path / "whole").write_bytes(files["kdump"])
    with pydump.open(tmp_path / "whole") as whole, pydump.open(tmp_path / "out") as out:
        lost = out.image.unreadable()
        assert lost
        for start, end in whole.guest.memory.ranges().intersect(out.guest.memory.ranges()).subtract(lost):
            assert out.read(start, end - start) == whole.read(start, end - start)


@pytest.mark.parametrize("cut", ELF_CUTS)
def test_an_elf_cut_off_anywhere(cut: int, files: dict[str, bytes], tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "in").write_bytes(files["elf"][:cut])
    refuse(1, "dump", "in", "out")


@pytest.mark.parametrize("cut", [600, 1000, 2000, 100000, -12])
def test_an_elf_cut_off_behind_its_first_headers(
    cut: int, files: dict[str, bytes], tmp_path: Path, run: Callable[..., Any]
) -> None:
    """In the program headers, the notes, and memory (behind it QEMU has 11 bytes of string table)."""
    (tmp_path / "in").write_bytes(files["elf"][:cut])
    for command, code in ((("info",), 3), (("map",), 3), (("read",), 0), (("verify",), 4), (("dump",), 3)):
        arguments = {"read": ("in", "0", "0"), "dump": ("in", "out")}.get(command[0], ("in",))
        done = run(*command, *arguments)
        assert done.code == code, (command, done.err)
        assert "Traceback" not in done.err
        assert "bytes of guest memory are lost" in done.err + done.out


@pytest.mark.parametrize(
    ("cut", "code"),
    [(20, 1), (4095, 1), (4096, 1), (4100, 1), (10000, 1), (-17, 3), (-16, 0), (-8, 0), (-1, 0)],
)
def test_a_flattened_stream_cut_off_anywhere(
    cut: int, code: int, files: dict[str, bytes], tmp_path: Path, refuse: Refuse, run: Callable[..., Any]
) -> None:
    """Its end mark is 16 bytes long; without it all is there, and a warning says that nobody can know."""
    data = files["flat"][:cut]
    (tmp_path / "in").write_bytes(data)
    for source, stdin in (("in", b""), ("-", data)):
        if code == 1:
            refuse(code, "dump", source, "out", "--compression", "lzo", stdin=stdin)
            continue
        done = run("dump", source, "out", "--compression", "lzo", "--force", stdin=stdin)
        assert done.code == code, done.err
        assert "without its end mark" in done.err


@pytest.mark.parametrize(
    "content", [b"", b"x", bytes(4096), random.Random(1).randbytes(100000), b"text\n" * 1000, b"KDUMP   ", b"\x7fELF"]
)
def test_what_is_no_dump(content: bytes, tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "in").write_bytes(content)
    for command in (("dump", "in", "out"), ("info", "in"), ("verify", "in"), ("read", "in", "0", "1")):
        refuse(1, *command)


def test_an_executable_is_no_core_file(tmp_path: Path, refuse: Refuse) -> None:
    assert "not a core file" in refuse(1, "info", sys.executable)


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def first_stored(data: bytes) -> int:
    """The offset of the first descriptor of a compressed page in a little-endian 64-bit kdump."""
    (block, sub, bitmaps) = struct.unpack_from("<iiI", data, 428)
    at = (1 + sub + bitmaps) * block
    while struct.unpack_from("<I", data, at + 12)[0] == 0:
        at += 24
    return at


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        (0, struct.pack("<q", 1 << 62), "its data lies outside the file, at "),
        (0, struct.pack("<q", -4096), "its data lies outside the file, at "),
        (0, struct.pack("<q", (1 << 63) - 1), "its data lies outside the file, at "),
        (0, struct.pack("<q", 0), "it is empty"),
        (8, struct.pack("<I", 0), "and a page has 1 to 4096"),
        (8, struct.pack("<I", 4097), "and a page has 1 to 4096"),
        (8, struct.pack("<I", 0xFFFFFFFF), "and a page has 1 to 4096"),
        (8, struct.pack("<I", 5), "does not decompress"),
        (12, struct.pack("<I", 0), "stored raw, but with"),
        (12, struct.pack("<I", 2), "does not decompress"),
        (12, struct.pack("<I", 0x40), "unknown compression flag 0x40"),
        (12, struct.pack("<I", 3), "unknown compression flag 0x3"),
    ],
)
def test_descriptors_that_lie(
    at: int, value: bytes, says: str, files: dict[str, bytes], tmp_path: Path, run: Callable[..., Any]
) -> None:
    """A page that is not where its descriptor says, or whose data is damaged, is lost, and no other."""
    data = files["kdump"]
    (tmp_path / "in").write_bytes(patched(data, first_stored(data) + at, value))
    found = run("verify", "in")
    assert (found.code, says in found.out) == (4, True), found.out
    done = run("dump", "in", "out", "--compression", "zstd")
    assert done.code == 3, done.err
    assert "incomplete: 4096 bytes" in done.err


@pytest.mark.parametrize(
    ("of_zeros", "fields", "says"),
    [
        (True, {"flags": 0x80}, "unknown compression flag 0x80"),
        (True, {"size": 7}, "stored raw, but with 7 bytes"),
        (False, {"offset": None, "size": 4096}, "does not decompress"),
        (False, {"offset": None, "size": 99}, "does not decompress"),
        (False, {"offset": 8}, "among the headers"),
        (False, {"offset": 4096, "size": 4096, "flags": 0}, "among the headers"),
    ],
)
def test_a_descriptor_that_shares_a_page_and_differs(
    of_zeros: bool, fields: dict[str, int | None], says: str,
    files: dict[str, bytes], tmp_path: Path, run: Callable[..., Any],
) -> None:  # fmt: skip
    """One descriptor among many that name the zero block, or a page of data sent there (offset None)."""
    data = files["kdump"]
    block, sub, bitmaps = struct.unpack_from("<iiI", data, 428)
    first = (1 + sub + bitmaps) * block
    (zero,) = struct.unpack_from("<q", data, first + 24 * 5)
    zeros = [at for at in range(first, first + 24 * 100, 24) if struct.unpack_from("<q", data, at)[0] == zero]
    at = zeros[4] if of_zeros else first_stored(data)
    for name, value in fields.items():
        place, form = {"offset": (0, "<q"), "size": (8, "<I"), "flags": (12, "<I")}[name]
        data = patched(data, at + place, struct.pack(form, zero if value is None else value))
    (tmp_path / "in").write_bytes(data)
    found = run("verify", "in")
    assert found.code == 4
    assert says in found.out
    for codec in ("zlib", "zstd"):  # pages of the first are taken over, those of the other are not
        code = run("dump", "in", "out", "--force", "--compression", codec).code
        assert code == 3 or (code == 0 and codec == "zlib" and says == "does not decompress")
        assert run("verify", "out").code == 4


def test_a_page_that_decompresses_to_another_size(
    files: dict[str, bytes], tmp_path: Path, run: Callable[..., Any]
) -> None:
    import zlib

    data = files["kdump"]
    at = first_stored(data)
    (offset,) = struct.unpack_from("<q", data, at)
    for page in (bytes(4095), bytes(4097), bytes(1 << 20)):
        packed = zlib.compress(page)
        wrong = patched(patched(data, offset, packed), at + 8, struct.pack("<I", len(packed)))
        (tmp_path / "in").write_bytes(wrong)
        done = run("dump", "in", "out", "--force", "--compression", "zstd")
        assert done.code == 3
        assert "bytes in pages of the source are damaged, the first at paddr 0x7000" in done.err


def elf_of(*segments: tuple[int, int, int, int, int], data: bytes = b"") -> bytes:
    """A little-endian x86_64 core: rows of p_type, p_offset behind the headers, p_paddr, p_filesz and p_memsz."""
    n = len(segments)
    head = b"\x7fELF\2\1\1" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64 if n else 0, 0, 0, 64, 56, n, 0, 0, 0)
    rows = (struct.pack("<IIQQQQQQ", t, 0, 64 + 56 * n + at, 0, p, f, m, 0) for t, at, p, f, m in segments)
    return head + b"".join(rows) + data


#: A note of 16 bytes.
TINY = struct.pack("<III", 1, 0, 7) + b"A\0\0\0"


def test_notes_without_end(files: dict[str, bytes], tmp_path: Path, run: Callable[..., Any]) -> None:
    """Segments may name the same bytes, so that a small file can have any number of notes."""
    notes = (4, 0, 0, 1 << 20, 1 << 20)
    (tmp_path / "in").write_bytes(elf_of(*[notes] * 5, (1, 0, 0, 4096, 4096), data=TINY * (1 << 16)))
    done = run("dump", "in", "out")
    assert (done.code, "more than 262144 notes: what follows is not read" in done.err) == (0, True)
    (tmp_path / "in").write_bytes(elf_of(*[notes] * 65, (1, 0, 0, 4096, 4096), data=bytes(1 << 20)))
    done = run("dump", "in", "out", "--force")
    assert (done.code, "more than 64 MiB of notes: what follows is not read" in done.err) == (0, True)
    data = files["kdump"] + TINY * ((1 << 18) + 1)
    (tmp_path / "in").write_bytes(patched(data, 4096 + 48, struct.pack("<QQ", len(files["kdump"]), (1 << 22) + 16)))
    done = run("dump", "in", "out", "--force")
    assert (done.code, "more than 262144 notes: what follows is not read" in done.err) == (0, True)


@pytest.mark.parametrize("value", [(1 << 64) - 1, (1 << 64) - 4096, 1 << 63, (1 << 63) - 1, 1 << 62, 1 << 48])
@pytest.mark.parametrize("field", [8, 16, 24, 32, 40])
def test_elf_sizes_near_2_to_the_64(
    field: int, value: int, files: dict[str, bytes], tmp_path: Path, run: Callable[..., Any]
) -> None:
    """p_offset, p_vaddr, p_paddr, p_filesz and p_memsz of the first PT_LOAD, in QEMU's layout.

    p_paddr of all ones means that there is none; one size stands for the other where that cannot be true; what would
    lie past the end of the file is lost.
    """
    data = files["elf"]
    (phoff,) = struct.unpack_from("<Q", data, 32)
    (tmp_path / "in").write_bytes(patched(data, phoff + 56 + field, struct.pack("<Q", value)))
    done = run("dump", "in", "out")
    if done.code in (1, 2):
        assert done.err.startswith("pydump: error: ")
        assert done.err.count("\n") == 1
        assert not (tmp_path / "out").exists()
    else:
        assert run("verify", "out").code == (4 if done.code else 0)
    if field != 24:
        assert done.code == (3 if field == 8 else 0)


def test_ram_at_the_end_of_the_address_space(tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "in").write_bytes(elf_of((1, 0, (1 << 64) - 8192, 8192, 8192), data=bytes(8192)))
    for command in (("dump", "in", "out", "--format", "elf"), ("dump", "in", "out"), ("map", "in")):
        assert "reaches the end of the address space" in refuse(1, *command)


def test_an_elf_file_without_memory(tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "in").write_bytes(elf_of())
    for command in (("dump", "in", "out"), ("verify", "in"), ("info", "in")):
        assert "no program headers" in refuse(1, *command)


def test_parts_of_different_formats(files: dict[str, bytes], tmp_path: Path, refuse: Refuse) -> None:
    for name in ("elf", "kdump"):
        (tmp_path / name).write_bytes(files[name])
    (tmp_path / "other").write_bytes(b"something else")
    assert "different formats: elf is elf, kdump is kdump" in refuse(2, "info", "elf,kdump")
    assert "other: no installed format reads it" in refuse(1, "info", "elf,other")


def test_a_storm_of_damage_ends_in_errors_only(files: dict[str, bytes], tmp_path: Path) -> None:
    """Bytes changed at random, most of them in the structures: an error of pydump's or a dump, and nothing else."""
    chance = random.Random(20261123)
    values = [b"\xff" * 8, b"\xff" * 4, bytes(8), b"\x01", b"\x7f", bytes(7) + b"\x80", struct.pack("<q", -4096)]
    source, out = tmp_path / "in", tmp_path / "out"
    outcomes = {"error": 0, "sound": 0}
    deadline = time.monotonic() + 20
    for _ in range(400):
        data = bytearray(files[chance.choice(sorted(files))])
        for _ in range(chance.choice([1, 1, 2, 8])):
            at = chance.randrange(min(len(data), chance.choice([64, 600, 4216, 9000, len(data)])))
            value = chance.choice([*values, chance.randbytes(8)])
            data[at : at + len(value)] = value
        source.write_bytes(data)
        try:
            pydump.dump(str(source), str(out), compression="none", sync=False, workers=1)
            outcomes["sound"] += 1
            out.unlink()
        except PydumpError:
            outcomes["error"] += 1
        assert not out.exists()
        if time.monotonic() > deadline and min(outcomes.values()) > 20:
            break
    assert outcomes["error"] > 20
    assert outcomes["sound"] > 20


def test_names_that_lead_nowhere(files: dict[str, bytes], tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "in").write_bytes(files["kdump"])
    (tmp_path / "directory").mkdir()
    (tmp_path / "there").write_text("precious")
    assert "No such file" in refuse(1, "dump", "nowhere", "out")
    assert "is a directory" in refuse(1, "dump", "directory", "out")
    assert "No such file" in refuse(1, "dump", "in", "nowhere/out")
    assert "is a directory" in refuse(2, "dump", "in", "directory")
    assert "there exists; choose another name, or replace it with --force" in refuse(2, "dump", "in", "there")
    assert (tmp_path / "there").read_text() == "precious"
    assert "unknown source or storage 'nosuch'; available: " in refuse(2, "dump", "nosuch:thing", "out")


def test_requests_that_make_no_sense(files: dict[str, bytes], tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "in").write_bytes(files["kdump"])
    assert "available: lzo, snappy, zlib, zstd, none; pydump plugins shows" in refuse(
        2, "dump", "in", "out", "--compression", "lz4"
    )
    assert "unknown format 'vmdk'; available: avml, elf, kdump, " in refuse(2, "dump", "in", "out", "--format", "vmdk")
    assert "available:" in refuse(2, "dump", "in", "out", "--arch", "vax")
    for words in (("dump", "in", "out"), ("info", "in"), ("verify", "in"), ("size", "in")):
        assert "unknown arch ''" in refuse(2, "--arch", "", *words)
        assert "unknown arch ''" in refuse(2, *words, "--arch", "")
    assert "does not compress" in refuse(2, "dump", "in", "out", "--format", "elf", "--compression", "lzo")
    assert "means lzo" in refuse(2, "dump", "in", "out", "--format", "kdump-lzo", "--compression", "zlib")
    assert "RAM is at" in refuse(2, "dump", "in", "out", "--begin", "1T", "--length", "4K")
    assert "is not an address or size" in refuse(2, "dump", "in", "out", "--begin", "five")
    assert "1 to 9" in refuse(2, "dump", "in", "out", "--zlib-level", "10")
    assert "at least 1" in refuse(2, "dump", "in", "out", "--workers", "0")
    assert "at least 1" in refuse(2, "verify", "in", "--workers", "0")
    assert "at least 1" in refuse(2, "compare", "in", "in", "--workers", "0")
    assert "at least 1" in refuse(2, "map", "in", "--workers", "0")
    assert "name it with --arch" in refuse(2, "dump", "raw:in@0", "out")
    assert "overlap" in refuse(2, "dump", "raw:in@0,in@4K", "out", "--arch", "x86_64")
    assert "no place for virtual addresses" in refuse(2, "dump", "in", "out", "--paging")
    assert "is of compressor zstd" in refuse(2, "dump", "in", "out", "--compression", "zlib", "--zstd-level", "3")
    assert "is of compressor zlib" in refuse(2, "dump", "in", "out", "--format", "elf", "--zlib-level", "3")
    assert "--pause is of source qmp, and in is kdump" in refuse(2, "dump", "in", "out", "--pause", "copy")
    (tmp_path / "text").write_text("OSRELEASE=6.1\nPAGESIZE=4096\n")
    assert "exclude each other" in refuse(2, "dump", "in", "out", "--vmcoreinfo", "text", "--no-vmcoreinfo")
    for address in ("0xffffffffffffffff", "0x10000000000000000", "1000000000T"):
        assert "no such range" in refuse(1, "read", "in", address, "16")
        assert "no such range" in refuse(1, "read", "in", address, "16", "--vaddr")


def test_an_arch_that_contradicts_the_source(files: dict[str, bytes], tmp_path: Path, refuse: Refuse) -> None:
    for name in ("elf", "kdump"):
        (tmp_path / name).write_bytes(files[name])
    assert "the source is a guest of x86_64; leave --arch out" in refuse(2, "dump", "elf", "out", "--arch", "s390x")
    assert "the source is little-endian" in refuse(2, "dump", "kdump", "out", "--arch", "s390x")
    assert "the source is a guest of x86_64" in refuse(2, "compare", "elf", "elf", "--arch", "riscv64")


@pytest.mark.parametrize("text", [b"", b"x", b"\x7fELF" * 99, b"OSRELEASE=6.1\n", b"OSRELEASE=6.1\nPAGESIZE=5\n", None])
def test_what_is_no_vmcoreinfo(text: bytes | None, files: dict[str, bytes], tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "in").write_bytes(files["elf"])
    if text is not None:
        (tmp_path / "text").write_bytes(text)
    where = "text" if text is not None else "/dev/zero"
    assert f"{where} is not a VMCOREINFO text" in refuse(2, "dump", "in", "out", "--vmcoreinfo", where)


def test_registers_nested_without_end(files: dict[str, bytes], tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "in").write_bytes(files["elf"])
    (tmp_path / "cpus").write_text("[" * 100_000)
    assert "is not JSON" in refuse(2, "dump", "in", "out", "--cpus", "cpus")


def test_streams_without_an_end(tmp_path: Path, refuse: Refuse, pydump_command: list[str]) -> None:
    assert "a device without an end" in refuse(1, "info", "/dev/zero")
    endless = subprocess.Popen(["yes"], stdout=subprocess.PIPE)
    try:
        done = subprocess.run(
            [*pydump_command, "info", "-"], stdin=endless.stdout, capture_output=True, text=True, timeout=60
        )
    finally:
        endless.kill()
        endless.communicate()
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "standard input: no installed format reads it" in done.stderr


def test_no_room_for_what_comes_through_a_pipe(
    files: dict[str, bytes], refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere")
    said = refuse(1, "info", "-", stdin=files["elf"])
    assert "cannot keep standard input in /nowhere" in said
    assert "set TMPDIR to a directory that is there and can be written to" in said


@pytest.mark.parametrize("words", [("dump", "-", "x"), ("info", "-"), ("compare", "-", "in"), ("info", "fd:0")])
def test_closed_standard_input_is_called_closed(
    words: tuple[str, ...], files: dict[str, bytes], tmp_path: Path, pydump_command: list[str]
) -> None:
    (tmp_path / "in").write_bytes(files["elf"])
    command = ["sh", "-c", 'exec "$@" <&-', "sh", *pydump_command, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    name = "fd:0" if "fd:0" in words else "standard input"
    assert (done.returncode, done.stderr.startswith(f"pydump: error: {name} is closed; ")) == (1, True), done.stderr
    assert not (tmp_path / "x").exists()


def test_a_device_that_holds_nothing_is_empty(refuse: Refuse) -> None:
    assert refuse(1, "info", "/dev/null") == "/dev/null is empty"


@pytest.mark.parametrize("command", ["info", "verify", "compare"])
def test_standard_input_is_read_once(command: str, files: dict[str, bytes], refuse: Refuse) -> None:
    assert refuse(2, command, "-", "-", stdin=files["elf"]) == "standard input can be read once; give - once"


def test_a_newline_in_a_name_is_shown_as_in_reports(tmp_path: Path, run: Callable[..., Any]) -> None:
    (tmp_path / "a\nb").touch()
    assert run("info", "a\nb").err == "pydump: error: a\\x0ab is empty\n"
    assert json.loads(run("info", "a\nb", "--json").out)["error"] == "a\nb is empty"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("info", "in", "--paddr", "zz"), "--paddr: 'zz' is not an address or size"),
        (("info", "in", "--vaddr", "zz"), "--vaddr: 'zz' is not an address or size"),
        (("read", "in", "zz", "1"), "ADDR: 'zz' is not an address or size"),
        (("read", "in", "0", "zz"), "SIZE: 'zz' is not an address or size"),
        (("dump", "raw:in@zz", "out"), "raw: 'zz' is not an address or size"),
        (("dump", "raw:in[zz:]@0", "out"), "raw: 'zz' is not an address or size"),
        (("dump", "in", "out", "--ram-only"), "--ram-only: VMCOREINFO does not state the size of struct page"),
        (("dump", *BARE, "--ram-only"), "--ram-only: too little is known of this guest to walk its page tables"),
        (("dump", *BARE, "--format", "elf", "--paging"), "--paging: too little is known of this guest to walk"),
    ],
)
def test_an_error_names_what_was_asked_for(
    words: tuple[str, ...], what: str, files: dict[str, bytes], tmp_path: Path, refuse: Refuse
) -> None:
    (tmp_path / "in").write_bytes(files["elf"])
    assert refuse(2, *words).startswith(what)


@pytest.mark.parametrize("name", ["", "a\nb", "a" * 300])
def test_names_that_are_none(name: str, files: dict[str, bytes], tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "in").write_bytes(files["elf"])
    code = 1 if name else 2
    refuse(code, "info", name)
    if name != "a\nb":  # that is a name
        refuse(code, "dump", "in", name)


def test_standard_output_that_is_full(files: dict[str, bytes], tmp_path: Path, pydump_command: list[str]) -> None:
    (tmp_path / "in").write_bytes(files["elf"])
    with open("/dev/full", "wb") as full:
        for arguments in (
            ("info", "in"),
            ("read", "in", "0", "64K"),
            ("dump", "in", "-"),
            ("dump", "in", "/dev/stdout"),
        ):
            done = subprocess.run(
                [*pydump_command, *arguments], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
            )
            assert (done.returncode, done.stderr.count("\n")) == (1, 1), arguments
            assert os.strerror(errno.ENOSPC) in done.stderr


def test_too_few_descriptors(files: dict[str, bytes], tmp_path: Path, pydump_command: list[str]) -> None:
    (tmp_path / "in").write_bytes(files["elf"])
    for limit in range(4, 16):
        done = subprocess.run(
            [*pydump_command, "dump", "in", "out", "--force", "--workers", "2"],
            cwd=tmp_path, capture_output=True, text=True, timeout=60,
            preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
        )  # fmt: skip
        if done.returncode and "Traceback" not in done.stderr:  # the interpreter itself may not start
            assert "raise the limit" in done.stderr
            assert done.stderr.count("\n") == 1


def test_a_dry_run_sees_what_speaks_against_the_output(files: dict[str, bytes], tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "in").write_bytes(files["elf"])
    (tmp_path / "there").write_text("precious")
    assert "there exists" in refuse(2, "dump", "in", "there", "--dry-run")
    assert "No such file" in refuse(1, "dump", "in", "nowhere/out", "--dry-run")


def test_a_full_disk(files: dict[str, bytes], tmp_path: Path, qemu: Qemu) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system takes root; test_pipeline.py has the same with a file-size limit")
    try:
        for arguments in (("--compression", "none"), ("--format", "elf"), ("--flatten",)):
            done = subprocess.run(
                [sys.executable, "-m", "pydump", "dump", qemu("linux-x86_64", "elf"), small / "out", *arguments],
                capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            assert done.returncode == 1
            assert done.stderr.count("\n") == 1
            assert os.strerror(errno.ENOSPC) in done.stderr
            assert "nothing was left there" in done.stderr
            assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_interruption(number: signal.Signals, workers: str, tmp_path: Path) -> None:
    """In the middle of a dump whose source is slow: exit code 130, nothing at the target, no process left."""
    ram = tmp_path / "ram"
    block = random.Random(2).randbytes(1 << 20)
    with ram.open("wb") as file:
        for _ in range(256):
            file.write(block)
    command = [sys.executable, "-m", "pydump", "dump", f"raw:{ram}@0", tmp_path / "out", "--arch", "x86_64"]
    options = ["--workers", workers, "--compression", "zstd", "--zstd-level", "19", "--no-dedup", "--progress", "plain"]
    process = subprocess.Popen(
        [*command, *options],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A test run in the background has SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )
    assert process.stderr
    process.stderr.readline()  # the first line of progress: it is at work
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("pydump: error: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ram"]
    deadline = time.monotonic() + 10
    while _members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _members(process.pid) == []


def _members(session: int) -> list[int]:
    """The processes of a session that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_a_reader_that_goes_away(files: dict[str, bytes], tmp_path: Path, qemu: Qemu) -> None:
    command = [sys.executable, "-m", "pydump", "dump", qemu("linux-x86_64", "elf"), "-", "--format", "elf"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.read(1000)
    process.stdout.close()
    assert b"the reader went away" in process.stderr.read()
    assert process.wait(60) == 1
    process.stderr.close()
