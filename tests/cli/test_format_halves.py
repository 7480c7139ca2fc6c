"""What the command line shows of formats with one half, and how it takes their options."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

#: Prints the commands that have the option of the reader half.
HELP = """
import typer
from pydump.cli.program import program

for name, command in program().commands.items():
    if any("--tape-start" in param.opts for param in command.get_params(typer.Context(command))):
        print(name)
"""


@pytest.fixture
def tape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tape, and an environment in which a plugin has its format."""
    folder = tmp_path / "site"
    facts = folder / "pydump_tape-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: pydump-tape\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[pydump]\nformat-tape = tape_format\n")
    shutil.copy(Path(__file__).parents[1] / "tape_format.py", folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    path = tmp_path / "tape"
    path.write_bytes(b"tape\n" + bytes(range(256)))
    return path


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60)


def test_plugins_shows_which_halves_a_format_has(tape: Path) -> None:
    assert "format plain (write), format tape (read)" in run("-m", "pydump", "plugins").stdout
    listed = {row["plugin"]: row for row in json.loads(run("-m", "pydump", "plugins", "--json").stdout)["plugins"]}
    assert listed["format-tape"]["formats"]["tape"] == {"reads": True, "writes": False, "carries": []}


def test_every_command_that_reads_has_the_reader_options(tape: Path) -> None:
    assert run("-c", HELP).stdout.split() == ["dump", "info", "verify", "compare", "read", "map", "dmesg", "size"]


def test_reader_options_reach_the_reader(tape: Path) -> None:
    out = tape.parent / "out"
    shown = run("-m", "pydump", "read", str(tape), "0x1001", "2", "--hex", "--tape-start", str(0x1000))
    assert shown.returncode == 0 and "01 02" in shown.stdout, shown.stderr
    command = ["-m", "pydump", "dump", str(tape), str(out), "--arch", "x86_64", "--format", "plain"]
    done = run(*command, "--tape-start", str(0x1000))
    assert done.returncode == 0 and out.read_bytes() == bytes(range(256)), done.stderr
    said = " ".join(done.stderr.split())
    assert "warning: plain has no place for the architecture" in said
