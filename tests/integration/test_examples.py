"""The examples, each installed into an environment of its own as a stranger would; and the scripts, on real dumps."""

from __future__ import annotations

import json
import lzma
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from environments import ROOT, Environment
from lab.live import live_guest

from pydump.testing.readers import read_elf

EXAMPLES = ROOT / "examples"
Qemu = Callable[[str, str], Path]


def passes(environment: Environment, example: str, plugin: str, cwd: Path) -> None:
    """The kit over the plugin, and the example's own tests."""
    done = environment.pytest("--pyargs", "pydump.testing", f"--pydump-plugin={plugin}", cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    done = environment.pytest(EXAMPLES / example / "tests", cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_a_compressor(wheels: Path, qemu: Qemu, tmp_path: Path) -> None:
    environment, elf = Environment(tmp_path / "venv", wheels), qemu("nano-x86_64", "elf")
    environment.install("pydump-core[testing]", "pydump-format-elf", "pydump-format-kdump", "pydump-compressor-lzma")
    passes(environment, "third_party_compressor", "compressor-lzma", tmp_path)
    assert "compressor-lzma" in environment.pydump("plugins").stdout

    # kdump files have no number for it, and say so.
    refused = environment.pydump("dump", elf, tmp_path / "out", "--compression", "lzma")
    assert refused.returncode == 2
    assert refused.stderr == (
        "pydump: error: format kdump cannot hold lzma pages; it can hold zlib, lzo, snappy, zstd and none\n"
    )

    environment.install("pydump-format-chunks")
    for preset in ("0", "9"):
        options = ("--format", "chunks", "--compression", "lzma", "--lzma-preset", preset)
        done = environment.pydump("dump", elf, tmp_path / preset, *options)
        assert done.returncode == 0, done.stderr
        assert environment.pydump("compare", elf, tmp_path / preset).returncode == 0
    # The streams are what others read: the first one in the file, by Python's own library.
    data = (tmp_path / "0").read_bytes()
    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    memory = read_elf(elf.read_bytes())
    assert stream.decompress(data[data.index(b"\xfd7zXZ\0") :]) == memory.read(0, 1 << 16)
    assert stream.eof


def test_a_format(wheels: Path, qemu: Qemu, tmp_path: Path) -> None:
    environment, elf = Environment(tmp_path / "venv", wheels), qemu("bare-s390x", "elf")
    environment.install(
        "pydump-core[testing]",
        "pydump-format-elf",
        "pydump-arch-s390x",
        "pydump-compressor-zlib",
        "pydump-format-chunks",
    )
    passes(environment, "third_party_format", "format-chunks", tmp_path)
    assert "format-chunks" in environment.pydump("plugins").stdout

    done = environment.pydump("dump", elf, tmp_path / "chunks", "--format", "chunks")
    assert done.returncode == 0, done.stderr
    assert environment.pydump("verify", tmp_path / "chunks").returncode == 0
    back = environment.pydump("dump", tmp_path / "chunks", tmp_path / "back", "--format", "elf")
    assert back.returncode == 0, back.stderr
    before, after = read_elf(elf.read_bytes()), read_elf((tmp_path / "back").read_bytes())
    for paddr, data in before.pages.items():
        assert after.read(paddr, len(data)) == data
    assert len(after.notes) == len(before.notes)


def test_an_architecture(wheels: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv", wheels)
    environment.install("pydump-core[testing]", "pydump-format-elf", "pydump-arch-loongarch64")
    passes(environment, "third_party_arch", "arch-loongarch64", tmp_path)
    assert "arch-loongarch64" in environment.pydump("plugins").stdout

    facts = json.loads(environment.pydump("--arch", "loongarch64", "--json").stdout)
    registers = {register["name"]: n for n, register in enumerate(facts["registers"]) if register["name"] != "pr_pid"}
    (tmp_path / "cpus.json").write_text(json.dumps([registers, registers]))
    (tmp_path / "ram").write_bytes(b"loongarch" * 10000)
    request = (f"raw:{tmp_path}/ram@0x200000", tmp_path / "out", "--format", "elf", "--arch", "loongarch64")
    done = environment.pydump("dump", *request, "--cpus", tmp_path / "cpus.json")
    assert done.returncode == 0, done.stderr
    written = read_elf((tmp_path / "out").read_bytes())
    assert struct.unpack_from("<H", (tmp_path / "out").read_bytes(), 18) == (258,)  # EM_LOONGARCH
    assert written.read(0x200000, 9) == b"loongarch"
    # As in QEMU: CPU after CPU, registers and then the floating-point unit's.
    assert [(name, type_, len(desc)) for name, type_, desc in written.notes] == [("CORE", 1, 480), ("CORE", 2, 268)] * 2
    assert struct.unpack_from("<Q", written.notes[0][2], 112 + 8 * 4) == (registers["r4"],)


# --- scripts ---


def script(name: str, *arguments: str | Path) -> list[str]:
    """Run an example script; its output by lines."""
    command = [sys.executable, str(EXAMPLES / "scripts" / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_facts(qemu: Qemu) -> None:
    assert script("facts.py", qemu("linux-x86_64", "elf")) == [
        "x86_64 6.1.0-50-amd64 2 CPUs 96 MiB",  # the guest's own words, and QEMU's command line
        "0x0..0x6000000 0xfffc0000..0x100000000",
    ]


def test_convert(qemu: Qemu, tmp_path: Path) -> None:
    (said,) = script("convert.py", qemu("bare-aarch64", "elf"), tmp_path / "out", "zstd")
    assert said.endswith(f"in {(tmp_path / 'out').stat().st_size}, zstd")
    assert (tmp_path / "out").read_bytes().startswith(b"KDUMP   ")


def test_find(qemu: Qemu) -> None:
    elf = qemu("linux-x86_64", "elf")
    text = b"Linux version 6.1.0-50-amd64"
    pages = read_elf(elf.read_bytes()).pages
    places = [
        hex(paddr + m.start()) for paddr, data in sorted(pages.items()) for m in re.finditer(re.escape(text), data)
    ]
    assert places
    assert script("find.py", elf, text.decode()) == places


def test_registers(qemu: Qemu) -> None:
    cpus = json.loads("\n".join(script("registers.py", qemu("nano-x86_64", "elf"))))
    notes = [desc for name, type_, desc in read_elf(qemu("nano-x86_64", "elf").read_bytes()).notes if type_ == 1]
    # struct elf_prstatus: the 11th, 17th and 20th of the registers from 112 on are rax, rip and rsp.
    held = [struct.unpack_from("<Q", desc, 112 + 8 * n)[0] for desc in notes if len(desc) == 336 for n in (10, 16, 19)]
    assert [cpu[name] for cpu in cpus for name in ("rax", "rip", "rsp")] == held
    assert any(held)


def test_synthetic(tmp_path: Path) -> None:
    assert script("synthetic.py", tmp_path / "out") == []
    memory = read_elf((tmp_path / "out").read_bytes())
    assert memory.read(0x100000 + 4096 * 7, 16) == b"page 000000007\n\0"


def test_capture(tmp_path: Path) -> None:
    with live_guest(tmp_path) as guest:
        said = script("capture.py", guest.socket, tmp_path / "out")
        assert guest.is_running()
    assert said[-1].startswith("64 MiB; the guest stood still for 0.")
    assert (tmp_path / "out").read_bytes().startswith(b"KDUMP   ")


def test_every_script_is_run_here() -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in (EXAMPLES / "scripts").glob("*.py")} <= tested
