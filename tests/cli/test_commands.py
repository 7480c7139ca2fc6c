"""Each command as a user runs it: what it prints, where, and with which exit code."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pydump import __version__
from pydump.cli import jobs, progress
from pydump.cli.examples import EXAMPLES
from pydump.cli.program import program

Qemu = Callable[[str, str], Path]
Run = Callable[..., Any]


@pytest.fixture
def elf(qemu: Qemu) -> Path:
    """QEMU's ELF dump of a small guest."""
    return qemu("nano-x86_64", "elf")


def test_help_lists_every_command_and_loads_nothing_heavy(run: Run) -> None:
    done = run("--help")
    assert done.code == 0
    for command in ("dump", "info", "verify", "compare", "read", "plugins"):
        assert f"\n  {command} " in done.out
        assert run(command, "--help").code == 0
    script = (
        "import sys; from pydump.cli.app import run; code = run(['--help'])\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('numpy', 'isal', 'lzo', 'cramjam', 'snappy', 'zstandard',"
        " 'zlib_ng', 'lzallright') or m.startswith(('pydump_', 'pydump.engine'))])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60).stdout
    assert out.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", [("info",), ("dump", "--compression", "none"), ("dump", "--format", "elf")])
def test_what_takes_long_to_load_is_loaded_when_it_is_needed(
    command: tuple[str, ...], elf: Path, tmp_path: Path
) -> None:
    """These take 3 to 8 ms each, and up to 4 MiB: np.unique without indices loads numpy.ma."""
    output = (str(tmp_path / "vmcore"),) if command[0] == "dump" else ()
    words = [command[0], str(elf), *output, *command[1:]]
    script = (
        f"import sys; from pydump.cli.app import run; assert run({words}) == 0\n"
        "print({'hashlib', 'ssl', 'numpy.ma', 'elftools', 'asyncio', 'pydump.model.findings'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_version_and_no_command(run: Run) -> None:
    assert run("--version").out == f"pydump {__version__}\n"
    done = run()
    assert done.code == 2
    assert "Usage: pydump" in done.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nonsense",), "No such command 'nonsense'; see pydump --help"),
        (("--nonsense",), "No such option: --nonsense; see pydump --help"),
        (("dump", "a"), "Missing argument 'OUTPUT'; see pydump dump --help"),
        (("dump", "a", "b", "--qqqq"), "No such option: --qqqq; see pydump dump --help"),
        (("read", "a", "0"), "Missing argument 'SIZE'; see pydump read --help"),
        (
            ("dump", "a", "b", "--compat", "never"),
            "Invalid value for '--compat': 'never' is not one of 'qemu'; see pydump dump --help",
        ),
        (
            ("dump", "a", "b", "--zlib-library", "x"),
            (
                "Invalid value for '--zlib-library': 'x' is not one of 'auto', 'zlib-ng', 'isal', 'zlib'"
                "; see pydump dump --help"
            ),
        ),
    ],
)
def test_usage_errors_are_one_line(arguments: tuple[str, ...], says: str, refuse: Callable[..., str]) -> None:
    assert refuse(2, *arguments) == says


def test_help_says_what_one_needs_to_know(run: Run) -> None:
    commands = run("--help").out.split("Commands:\n")[1].split()
    assert commands[0] == "dump"
    told = " ".join(run("dump", "--help").out.split())
    assert "qmp:SOCKET" in told
    assert "elf, kdump," in told and "or QEMU's names, such as kdump-" in told
    assert "zlib, lzo, snappy, zstd or none. Default: zlib." in told
    assert "--pause, --qemu-pause <auto|copy|snapshot|full|none> qmp: " in told
    assert "--scratch, --qemu-scratch DIR qmp: " in told
    assert "--zlib-level N zlib: " in told
    assert "Default: False" not in told
    for command in ("dump", "info", "new-plugin"):
        assert "-v, --verbose Explain choices. -q, --quiet Print errors only." in " ".join(
            run(command, "--help").out.split()
        )


@pytest.mark.parametrize("columns", [80, 120])
def test_dumps_help_is_in_panels_that_fit_the_screen(run: Run, columns: int) -> None:
    lines = run("dump", "--help", env={**os.environ, "COLUMNS": str(columns)}).out.splitlines()
    assert [line for line in lines if re.fullmatch(r"[A-Z][\w ]+:", line)] == [
        "Arguments:", "Input:", "What to write:", "Filter:", "Format and compression:", "Live guest:", "Running:",
        "Output:", "Examples:",
    ]  # fmt: skip
    assert max(map(len, lines)) <= columns


@pytest.mark.parametrize(
    ("command", "line"), [(command, line) for command, some in EXAMPLES.items() for line, _ in some]
)
def test_the_examples_are_commands(command: str, line: str) -> None:
    words = shlex.split(line.partition(" | ")[0])
    assert words[:2] == ["pydump", command]
    program().commands[command].make_context(command, words[2:])


def test_short_and_full_flags_of_plugins_are_one(elf: Path, run: Run, tmp_path: Path) -> None:
    for name, flags in {
        "short": ("--sparse", "--dedup"), "full": ("--elf-sparse", "--kdump-dedup"),
    }.items():  # fmt: skip
        assert run("dump", elf, f"{name}.elf", "--format", "elf", flags[0]).code == 0
        assert run("dump", elf, f"{name}.kdump", flags[1]).code == 0
    for kind in ("elf", "kdump"):
        assert (tmp_path / f"short.{kind}").read_bytes() == (tmp_path / f"full.{kind}").read_bytes()
    assert "--no-kdump-dedup" in run("dump", "--help").out


def test_help_promises_nothing_that_is_not_installed() -> None:
    """With core alone, as with whatever there is."""
    script = (
        "from pydump import builtin, registry; r = registry.registry_of([('core', builtin)])\n"
        "registry.installed = lambda: r\n"
        "from pydump.cli.app import run; print(run(['dump', '--help']))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60).stdout
    told = " ".join(out.split())
    assert "--format NAME none is installed: pip install pydump-" in told
    assert "--compression NAME none." in told
    assert "zlib" not in told
    assert told.endswith("0")


def test_dump_verify_compare_info(elf: Path, run: Run, tmp_path: Path) -> None:
    done = run("dump", elf, "out")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("wrote         out\n")
    assert "guest         x86_64, little-endian, 4096-byte pages, 2 CPUs\n" in done.out
    assert run("verify", "out").out.startswith("out: sound; 2.1 MiB of guest memory read back")
    assert run("compare", elf, "out").out.startswith("the same guest: 2.1 MiB of memory compared")
    assert "format        kdump-compressed version 6, 4096-byte blocks\n" in run("info", "out").out
    info = run("info", elf).out
    assert "              0x000000000000 .. 0x0000000c0000  768.0 KiB\n" in info


def test_json_is_what_it_says(elf: Path, run: Run) -> None:
    report = json.loads(run("dump", elf, "out", "--json", "--compression", "lzo").out)
    assert (report["format"], report["compression"], report["arch"]) == ("kdump", "lzo", "x86_64")
    assert report["ram_size"] == report["stored_size"]
    assert "lzo" in report["producer"] or "lzallright" in report["producer"]
    verified = json.loads(run("verify", "out", "--json").out)
    assert (verified["n_faults"], verified["checked_size"]) == (0, report["ram_size"])
    assert json.loads(run("compare", elf, "out", "--json").out)["n_differences"] == 0
    info = json.loads(run("info", elf, "--json", "--notes").out)
    assert [(n["name"], n["type"], len(n["desc"]) // 2) for n in info["notes"]] == [
        ("CORE", 1, 336), ("CORE", 1, 336), ("QEMU", 0, 440), ("QEMU", 0, 440)
    ]  # fmt: skip
    # What the program of this guest left in its registers.
    assert info["cpus"][0]["r15"] == "0x101010101010101"
    assert info["cpus"][0]["rax"] == "0x202020202020202"
    assert sum(block["size"] for block in info["memory"]) == report["ram_size"]
    listed = json.loads(run("plugins", "--json").out)["plugins"]
    assert {"compressor zlib", "format kdump", "arch s390x"} <= {p for row in listed for p in row["provides"]}
    assert all(row["error"] is None for row in listed)
    producers = {name: producer for row in listed for name, producer in row["producers"].items()}
    assert report["producer"] == producers["lzo"]
    advice = {name: text for row in listed for name, text in row["advice"].items()}
    beside = f" ({report['advice']})" if report["advice"] else ""
    assert report["advice"] == (advice.get("lzo") or None)
    assert f"compressor lzo by {producers['lzo']}{beside}\n" in run("plugins").out


def test_differences_are_told_with_their_place(elf: Path, run: Run, tmp_path: Path) -> None:
    assert run("dump", elf, "good", "--format", "elf").code == 0
    data = bytearray((tmp_path / "good").read_bytes())
    data[-5000] ^= 0xFF
    (tmp_path / "bad").write_bytes(data)
    done = run("compare", "good", "bad")
    assert done.code == 4
    assert done.out.startswith("paddr 0xffffe000: the pages differ from byte 0xc78 on\n")
    assert done.out.endswith("good and bad differ in 1 place\n")


def test_registers_out_edited_and_back(elf: Path, run: Run, tmp_path: Path) -> None:
    info = json.loads(run("info", elf, "--json", "--notes").out)
    info["cpus"][1]["rip"] = "0xfeedface"
    (tmp_path / "cpus.json").write_text(json.dumps(info))
    assert run("dump", elf, "out", "--cpus", "cpus.json").code == 0
    back = json.loads(run("info", "out", "--json", "--notes").out)
    assert back["cpus"] == info["cpus"]


def test_raw_memory_and_registers_make_a_dump(qemu: Qemu, run: Run, refuse: Callable[..., str], tmp_path: Path) -> None:
    ram, elf = qemu("bare-s390x", "ram.raw"), qemu("bare-s390x", "elf")
    info = json.loads(run("info", elf, "--json", "--notes").out)
    (tmp_path / "cpus.json").write_text(json.dumps({"cpus": info["cpus"]}))
    assert run("--arch", "s390x", "dump", f"raw:{ram}@0", "out", "--cpus", "cpus.json").code == 0
    assert run("compare", elf, "out").code == 0
    del info["cpus"][1]["psw_addr"]
    (tmp_path / "cpus.json").write_text(json.dumps(info["cpus"]))
    said = refuse(2, "dump", f"raw:{ram}@0", "two", "--arch", "s390x", "--cpus", "cpus.json")
    assert said.startswith("CPU 1 lacks 1 of s390x's registers: psw_addr; ")
    (tmp_path / "cpus.json").write_text('{"cpus": [{"rax": 1}]}')
    assert "psw_addr" in refuse(2, "dump", f"raw:{ram}@0", "two", "--arch", "s390x", "--cpus", "cpus.json")
    (tmp_path / "cpus.json").write_text("nonsense")
    assert "is not JSON" in refuse(2, "dump", f"raw:{ram}@0", "two", "--arch", "s390x", "--cpus", "cpus.json")


@pytest.mark.parametrize(
    "arch", ["x86_64", "i386", "aarch64", "arm", "s390x", "ppc64", "ppc64le", "riscv64", "riscv32"]
)
def test_the_facts_of_an_architecture(arch: str, run: Run) -> None:
    facts = json.loads(run("--arch", arch, "--json").out)
    assert facts["name"] == arch
    names = [register["name"] for register in facts["registers"]]
    assert len(names) == len(set(names)) > 10
    table = run("--arch", arch).out
    assert f"arch          {arch}\n" in table
    assert all(f" {name}" in table for name in names)


def test_pipes_in_and_out(elf: Path, run: Run) -> None:
    stream = run("dump", elf, "-")
    assert stream.raw.startswith(b"makedumpfile\0")
    assert "wrote         standard output" in stream.err
    assert run("info", "-", stdin=stream.raw).code == 0
    assert run("dump", "-", "out", stdin=stream.raw).code == 0
    assert run("compare", elf, "out").code == 0
    plain = run("dump", elf, "-", "--format", "elf", "-q")
    assert (plain.raw[:4], plain.err) == (b"\x7fELF", "")  # an ELF file is written from front to back as it is
    assert run("dump", "-", "again", stdin=plain.raw).code == 0


def test_an_open_descriptor(elf: Path, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        command = [sys.executable, "-m", "pydump", "dump", elf, f"fd:{file.fileno()}"]
        assert subprocess.run(command, pass_fds=[file.fileno()], capture_output=True, timeout=60).returncode == 0
    assert (tmp_path / "out").read_bytes().startswith(b"makedumpfile\0")


def test_read(elf: Path, run: Run) -> None:
    assert run("read", elf, "0xfffffff0", "16").raw == run("read", elf, "4294967280", "0x10").raw
    # Where an x86 CPU begins after reset: a far jump to 0xf000:0xff00.
    assert run("read", elf, "0xfffffff0", "16", "--hex").out == (
        "00000000fffffff0  ea 00 ff 00 f0 00 00 00  00 00 00 00 00 00 00 00  |................|\n"
    )


def test_bare_memory_is_read_by_virtual_address(run: Run, refuse: Callable[..., str], qemu: Qemu) -> None:
    """Bare memory says nothing of its architecture; what is said reaches the command from both places."""
    ram = qemu("bare-s390x", "ram.raw")
    for arguments in (
        ("read", f"raw:{ram}@0", "0", "16", "--vaddr", "--arch"),
        ("read", f"raw:{ram}@0", "0", "16", "--vaddr"),
    ):
        rest = ("s390x",) if "--arch" in arguments else ()
        first = () if rest else ("--arch", "s390x")
        done = run(*first, *arguments, *rest)
        assert "--arch" not in done.err
        assert "too little is known of this guest to walk its page tables" in done.err
    assert "available: " in refuse(2, "read", f"raw:{ram}@0", "0", "16", "--vaddr", "--arch", "vax")


def test_a_reader_that_makes_standard_output_not_wait(elf: Path, run: Run, pydump_command: list[str]) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    wanted = run("read", elf, "0", "640K").raw
    for arguments in (["read", elf, "0", "640K"], ["dump", elf, "-", "--format", "elf"]):
        with subprocess.Popen([*pydump_command, *arguments], stdout=writer, stderr=subprocess.PIPE) as process:
            got = b""
            while process.poll() is None or select.select([reader], [], [], 0)[0]:
                if select.select([reader], [], [], 0.05)[0]:
                    got += os.read(reader, 65536)
            assert process.returncode == 0, process.stderr and process.stderr.read()
        assert got[:4] == wanted[:4] if arguments[0] == "read" else got.startswith(b"\x7fELF")
        if arguments[0] == "read":
            assert got == wanted
    os.close(reader)
    os.close(writer)


def test_what_is_not_there_cannot_be_read(elf: Path, refuse: Callable[..., str]) -> None:
    assert "there is no RAM" in refuse(1, "read", elf, "0x80000000", "16")


def test_loudness_stands_anywhere(elf: Path, run: Run) -> None:
    for arguments in (("-q", "dump", elf, "a"), ("dump", elf, "b", "-q"), ("dump", elf, "c", "--quiet")):
        done = run(*arguments)
        assert (done.code, done.out, done.err) == (0, "", "")


@pytest.mark.parametrize("name", ["-v", "-q", "--quiet", "dump", "plugins"])
def test_a_file_may_be_called_like_an_option_or_a_command(elf: Path, run: Run, name: str) -> None:
    assert run("dump", "--format", "elf", "--", elf, name).code == 0
    told = run("info", "--", name)
    assert (told.code, told.err) == (0, "")
    assert "x86_64" in told.out
    assert run("-q", "compare", "--", elf, name).out == ""


def test_progress_for_people_and_programs(elf: Path, run: Run) -> None:
    lines = run("dump", elf, "a", "--progress", "json").err.splitlines()
    last = json.loads(lines[-1])
    assert last["phase"] == "dump"
    assert last["done"] == last["total"] > 0
    assert "100 %" in run("dump", elf, "b", "--progress", "plain").err


def test_speed_is_in_the_units_of_the_sizes_beside_it() -> None:
    from rich.progress import Task, TaskID

    bar = progress._rich_bar()
    task = Task(TaskID(0), "dump", 1 << 30, 0, _get_time=lambda: 0.0)
    shown = [column.render(task) for column in bar.columns if type(column).__name__ == "Speed"]
    task.finished_speed = 3.5 * (1 << 20)
    shown += [column.render(task) for column in bar.columns if type(column).__name__ == "Speed"]
    assert [str(text) for text in shown] == ["?", "3.5 MiB/s"]


def test_a_dry_run_writes_nothing(elf: Path, run: Run, tmp_path: Path) -> None:
    done = run("dump", elf, "out", "--dry-run")
    assert done.out.startswith("would write   out\n")
    assert not (tmp_path / "out").exists()


def test_qemus_names_for_formats(elf: Path, run: Run) -> None:
    for name in ("kdump-zlib", "kdump-lzo", "kdump-snappy", "kdump-raw-lzo", "elf"):
        assert run("dump", elf, name, "--format", name).code == 0
        assert run("compare", elf, name).code == 0


def test_lost_pages_are_exit_code_3(elf: Path, run: Run, tmp_path: Path) -> None:
    import struct

    assert run("dump", elf, "whole", "--compression", "zlib").code == 0
    data = bytearray((tmp_path / "whole").read_bytes())
    block, sub, bitmaps = struct.unpack_from("<iiI", data, 428)
    struct.pack_into("<I", data, 424, struct.unpack_from("<I", data, 424)[0] | 8)  # the dump is incomplete, and
    struct.pack_into("<q", data, (1 + sub + bitmaps) * block, 0)  # its first page is lost
    (tmp_path / "lost").write_bytes(data)
    done = run("dump", "lost", "out")
    assert done.code == 3
    assert "incomplete: 4096 bytes of guest memory are unreadable" in done.err
    assert (tmp_path / "out").exists()
    quiet = run("-q", "dump", "lost", "quiet")
    assert (quiet.code, quiet.out) == (3, "")
    assert "incomplete: 4096 bytes of guest memory are unreadable" in quiet.err


def test_a_broken_plugin_is_one_warning(elf: Path, run: Run, tmp_path: Path) -> None:
    site = tmp_path / "site"
    info = site / "pydump_broken-1.dist-info"
    info.mkdir(parents=True)
    (site / "pydump_broken.py").write_text("raise RuntimeError('no luck')")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pydump-broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[pydump]\nbroken = pydump_broken\n")
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = run("dump", elf, "out", env=env)
    assert done.code == 0
    assert done.err == "pydump: warning: plugin broken does not work: RuntimeError: no luck\n"
    assert "broken: RuntimeError: no luck" in run("plugins", env=env).out
    strict = run("dump", elf, "two", env={**env, "PYDUMP_STRICT_PLUGINS": "1"})
    assert strict.code == 1
    assert strict.err.startswith("pydump: error: plugin broken: RuntimeError: no luck")


def test_what_is_mended_is_told(qemu: Qemu, run: Run) -> None:
    elf, kdump = qemu("nano-x86_64", "elf"), qemu("bare-aarch64", "kdump-zlib")
    told = run("dump", elf, "out").out
    assert "fixed         the program headers are at 0xc0, and makedumpfile looks at 0x40\n" in told
    assert "              e_ehsize is 8, not 64\n" in told
    assert "fixed " not in run("dump", "out", "again").out
    done = run("verify", kdump)
    assert done.code == 4
    assert "utsname lacks sysname, release, version: libkdumpfile" in done.out
    assert done.out.endswith("all of its memory can be read, and a dump of it by pydump fixes them\n")
    assert run("verify", "out").code == 0


def test_pages_that_are_taken_over_are_told(elf: Path, run: Run) -> None:
    run("dump", elf, "one", "--compression", "lzo")
    assert "\ncopied " not in run("dump", "one", "two", "--compression", "zlib").out
    told = run("dump", "one", "three", "--compression", "lzo").out
    assert "format        kdump, lzo\n" in told
    assert "as compressed in the source, unchecked\n" in told
    assert "a damaged page among them is still damaged and not counted; pydump verify finds it\n" in told
    report = json.loads(run("dump", "one", "four", "--compression", "lzo", "--json").out)
    assert report["taken_size"] + report["zero_size"] == report["stored_size"]


def test_json_may_stand_first(elf: Path, run: Run) -> None:
    for command in (
        ("info", elf),
        ("verify", elf),
        ("compare", elf, elf),
        ("plugins",),
        ("dump", elf, "out"),
        ("status",),
        ("map", elf),
        ("info", elf, "--paddr", "0"),
        ("--arch", "s390x"),
    ):
        assert json.loads(run("--json", *command).out)["schema"] == 1


def test_info_tells_a_flattened_file(elf: Path, run: Run) -> None:
    run("dump", elf, "plain")
    run("dump", elf, "flat", "--flatten")
    assert "4096-byte blocks, flattened\n" in run("info", "flat").out
    assert "flattened" not in run("info", "plain").out


def test_bare_memory_compares_with_a_dump(qemu: Qemu, run: Run, tmp_path: Path) -> None:
    elf = qemu("nano-x86_64", "elf")
    blocks = json.loads(run("info", elf, "--json").out)["memory"]
    for block in blocks:
        (tmp_path / f"{block['paddr']:#x}").write_bytes(run("read", elf, block["paddr"], block["size"]).raw)
    raw = "raw:" + ",".join(f"{block['paddr']:#x}@{block['paddr']:#x}" for block in blocks)
    assert run("compare", elf, raw).code == 0
    assert run("compare", raw, raw, "--arch", "x86_64").code == 0
    with (tmp_path / "0x0").open("r+b") as file:
        file.seek(0x1234)
        file.write(b"?")
    done = run("compare", elf, raw)
    assert (done.code, done.out.splitlines()[0]) == (4, "paddr 0x1000: the pages differ from byte 0x234 on")


def test_phys_base_outlives_vmcoreinfo(qemu: Qemu, run: Run) -> None:
    elf = qemu("linux-x86_64", "elf")
    run("dump", elf, "out", "--no-vmcoreinfo")
    facts = [json.loads(run("info", file, "--json").out) for file in (elf, "out")]
    assert facts[0]["phys_base"] == facts[1]["phys_base"] != 0
    assert [f["has_vmcoreinfo"] for f in facts] == [True, False]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("dump --arch pp", ["ppc64", "ppc64le"]),
        ("--arch s", ["s390x"]),
        ("dump a b --compression z", ["zlib", "zstd"]),
        ("dump a b --format kdump-l", ["kdump-lzo"]),
        ("dump a b --zstd-", ["--zstd-level"]),
        ("ver", ["verify"]),
        ("dump a b --pause ", ["auto", "copy", "full", "none", "snapshot"]),
        ("dump a b --qemu-access s", ["shared", "stream"]),
        ("dump a b --zlib-library z", ["zlib", "zlib-ng"]),
        ("new-plugin ", ["arch", "compressor", "executor", "filter", "format", "source", "storage"]),
    ],
)
def test_the_shell_completes_what_plugins_have(typed: str, offered: list[str], run: Run) -> None:
    words = f"pydump {typed}"
    asked = {"_PYDUMP_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = run(env={**os.environ, **asked})
    assert sorted(line.split(",")[-1] for line in done.out.split()) == offered


def test_the_shell_completes_jobs(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("out1", "out2", "out3"):
        jobs.JobFile("source", name)
    (jobs.directory() / "3.json").rename(jobs.directory() / "11.json")
    asked = {"_PYDUMP_COMPLETE": "complete_bash", "COMP_WORDS": "pydump status 1", "COMP_CWORD": "2"}
    assert run(env={**os.environ, **asked}).out.split() == ["1", "11"]


def on_a_terminal(command: list[str], columns: int, **environment: str) -> list[str]:
    """What a command that succeeds prints on a terminal so wide, without its colours."""
    import pty

    parent, child = pty.openpty()
    env = {**os.environ, "COLUMNS": str(columns), "NO_COLOR": "1", "TERM": "xterm", **environment}
    with subprocess.Popen(command, stdout=child, env=env) as process:
        os.close(child)
        seen = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while piece := os.read(parent, 65536):
                seen += piece
    os.close(parent)
    assert process.returncode == 0
    assert b"\x1b[3" not in seen  # no colours
    return re.sub(r"\x1b\[\d*m", "", seen.decode()).splitlines()


def test_a_table_on_a_terminal_fits_it(pydump_command: list[str]) -> None:
    lines = on_a_terminal([*pydump_command, "plugins"], 70)
    assert any("distribution" in line for line in lines)
    assert any("compressor-zstd" in line for line in lines)
    assert max(map(len, lines)) <= 70


@pytest.mark.parametrize(
    ("columns", "command"),
    [
        *((40, command) for command in ("plugins", "map {}", "info {} --notes", "read {} 0xfffffff0 16")),
        *((80, command) for command in ("map {}", "info {} --notes", "--arch s390x")),
    ],
)
def test_a_narrow_terminal_is_enough(columns: int, command: str, elf: Path, pydump_command: list[str]) -> None:
    lines = on_a_terminal([*pydump_command, *command.format(elf).split()], columns)
    assert max(map(len, lines)) <= columns, lines
    assert "…" not in "".join(lines)  # nothing is cut off


def test_a_hex_dump_on_a_terminal(elf: Path, pydump_command: list[str]) -> None:
    """The bytes are those of :func:`test_read`; ``hexdump -C`` writes addresses with eight digits."""
    shown = {
        80: ["fffffff0  ea 00 ff 00 f0 00 00 00  00 00 00 00 00 00 00 00  |................|"],
        60: ["fffffff0  ea 00 ff 00 f0 00 00 00  |........|", "fffffff8  00 00 00 00 00 00 00 00  |........|"],
        40: ["fffffff0  ea 00 ff 00  |....|", "fffffff4  f0 00 00 00  |....|", "fffffff8  00 00 00 00  |....|",
             "fffffffc  00 00 00 00  |....|"],
    }  # fmt: skip
    for columns, lines in shown.items():
        assert on_a_terminal([*pydump_command, "read", str(elf), "0xfffffff0", "15"], columns)[:-1] == lines[:-1]
        assert on_a_terminal([*pydump_command, "read", str(elf), "0xffffffef", "1"], columns)[0].startswith(
            "ffffffef  "
        )


def test_names_that_are_no_text(elf: Path, run: Run, tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are written out, and JSON stays what every parser takes."""
    name = os.fsdecode(b"x\xe9-\xc3\xa9\\x")
    done = run("info", name)
    assert (done.code, done.err) == (1, "pydump: error: cannot open x\\xe9-é\\x: No such file or directory\n")
    os.symlink(elf, tmp_path / name)
    done = run("info", name)
    assert done.raw.decode().startswith("file          x\\xe9-é\\x\n")
    told = run("info", name, "--json")
    assert json.loads(told.raw.decode("ascii"))["path"] == "x\\xe9-é\\x"
    told = run("dump", name, "out", "--json")
    assert json.loads(told.raw.decode("ascii"))["source"] == "x\\xe9-é\\x"
    assert "\\ud" not in told.out


def test_a_terminal_that_lacks_characters(elf: Path, run: Run, tmp_path: Path) -> None:
    os.symlink(elf, tmp_path / "é")
    done = run("info", "é", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("file          \\xe9\n")


def test_vmcoreinfo_as_json(qemu: Qemu, run: Run) -> None:
    elf = qemu("linux-x86_64", "elf")
    text = run("info", elf, "--vmcoreinfo").out
    assert text.startswith("OSRELEASE=")
    assert json.loads(run("info", elf, "--vmcoreinfo", "--json").out) == {"schema": 1, "vmcoreinfo": text}


def test_info_says_how_large_a_file_is(elf: Path, run: Run) -> None:
    size = elf.stat().st_size
    assert f"\nsize          {size / (1 << 20):.1f} MiB\n" in run("info", elf).out
    assert json.loads(run("info", elf, "--json").out)["file_size"] == size
    assert json.loads(run("info", "-", "--json", stdin=elf.read_bytes()).out)["file_size"] is None


def test_what_is_no_number_or_no_file_is_said_in_short(elf: Path, refuse: Callable[..., str]) -> None:
    for digits in ("9" * 5000, "0x" + "f" * 5000):
        said = refuse(2, "read", elf, digits, "1")
        assert "is not an address or size; write 0x40000000, 1048576 or 512M" in said
        assert len(said) < 200
    assert refuse(2, "dump", elf, "o", "--cpus", "/nope") == "cannot read /nope: No such file or directory"
    assert refuse(2, "dump", elf, "o", "--cpus", elf).startswith(f"{elf} is not JSON: it is not UTF-8 text; ")
