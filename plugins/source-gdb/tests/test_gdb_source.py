"""The source, by the conformance kit, and with a stub on a real socket."""

from __future__ import annotations

from pathlib import Path

import pytest

import pydump as api
from gdb_stub import Machine, serving
from pydump.errors import PydumpError
from pydump.testing.source import SourceTests
from pydump_source_gdb import GdbSource


class TestGdb(SourceTests):
    source = GdbSource


def test_memory_and_registers_come_from_the_stub(tmp_path: Path) -> None:
    machine = Machine(status="paused (prelaunch)")
    with serving(tmp_path / "s", machine):
        report = api.dump(f"gdb:{tmp_path}/s", tmp_path / "vmcore", format="elf")
    assert report.paused_seconds == 0  # it was paused before
    with api.open(str(tmp_path / "vmcore")) as dump:
        assert dump.guest.arch == "riscv64"
        assert dump.read(0x80000000, 0x10000) == machine.memory
        assert dump.read(0x1000, 0x1000) == bytes(0x1000)
        assert dump.cpus[0].registers["ra"] == 1 and dump.cpus[0].registers["pc"] == 32
    assert machine.physical == b"0"
    assert b"D;1" not in machine.asked


def test_memory_is_read_once(tmp_path: Path) -> None:
    machine = Machine(status="paused (prelaunch)")
    with serving(tmp_path / "s", machine), api.open(f"gdb:{tmp_path}/s") as live:
        assert live.read(0x80000123, 5) == machine.memory[0x123:0x128]
        before = len(machine.asked)
        assert live.read(0x80000200, 0x100) == machine.memory[0x200:0x300]
        assert len(machine.asked) == before
        with pytest.raises(PydumpError, match="there is no RAM"):
            live.read(0x80010000, 1)


def test_a_guest_of_which_nobody_knows_whether_it_ran_runs_and_that_is_said(tmp_path: Path) -> None:
    machine = Machine(version="10.0.2")
    with serving(tmp_path / "s", machine), api.open(f"gdb:{tmp_path}/s") as live:
        assert any("--gdb-after pause" in line for line in live.warnings)
    assert machine.asked[-1] == b"D;1"


def test_a_guest_that_is_paused_is_not_followed(tmp_path: Path) -> None:
    machine = Machine(version="10.0.2")
    with serving(tmp_path / "s", machine), pytest.raises(PydumpError, match="logs nothing new"):
        next(api.follow(f"gdb:{tmp_path}/s"))
    assert machine.asked[-1] == b"D;1"


def test_the_user_says_that_the_guest_stays_paused(tmp_path: Path) -> None:
    machine = Machine(version="10.0.2")
    with (
        serving(tmp_path / "s", machine),
        api.open(f"gdb:{tmp_path}/s", options={"gdb": {"after": "pause"}}) as live,
    ):
        assert not live.warnings
    assert b"D;1" not in machine.asked and machine.physical == b"0"
