"""When a guest may be let run. The states are those of qapi/run-state.json and qapi/migration.json."""

from __future__ import annotations

from typing import Any

import pytest

from pydump_source_qemu.watchdog import MIGRATED, Resumed, resume


class Qemu:
    """QEMU as far as it is asked."""

    def __init__(self, status: str, migration: str | None, *, dump: str = "none") -> None:
        self.status, self.migration, self.dump = status, migration, dump
        self.conts = 0

    def ask(self, name: str) -> dict[str, Any]:
        """A command's reply."""
        if name == "query-status":
            return {"return": {"status": self.status, "running": self.status == "running"}}
        if name == "query-migrate":
            return {"return": {} if self.migration is None else {"status": self.migration}}
        if name == "query-dump":
            return {"return": {"status": self.dump, "completed": 0, "total": 1}}
        assert name == "cont"
        self.conts += 1
        if self.dump == "active":
            return {"error": {"class": "GenericError", "desc": "There is a dump in process, please wait."}}
        return {"return": {}}


@pytest.mark.parametrize(
    ("status", "migration"),
    [("paused", None), ("paused", "completed"), ("paused", "failed"), ("save-vm", None), ("postmigrate", "cancelled")],
)
def test_a_guest_that_we_stopped_is_let_run(status: str, migration: str | None) -> None:
    qemu = Qemu(status, migration)
    assert resume(qemu.ask) == Resumed(True)
    assert qemu.conts == 1


@pytest.mark.parametrize("status", ["running", "guest-panicked", "shutdown", "suspended", "internal-error"])
def test_a_guest_that_somebody_let_run_is_left_alone(status: str) -> None:
    qemu = Qemu(status, None)
    assert resume(qemu.ask) == Resumed(True)
    assert qemu.conts == 0


def test_a_guest_that_was_migrated_runs_elsewhere() -> None:
    qemu = Qemu("postmigrate", "completed")
    assert resume(qemu.ask) == Resumed(True, MIGRATED)
    assert qemu.conts == 0


@pytest.mark.parametrize(
    ("status", "migration"),
    [("paused", "active"), ("paused", "setup"), ("paused", "pre-switchover"), ("finish-migrate", "device")],
)
def test_a_migration_is_waited_for(status: str, migration: str) -> None:
    qemu = Qemu(status, migration)
    came = resume(qemu.ask)
    assert (came.done, came.busy, qemu.conts) == (False, True, 0)


def test_a_dump_is_waited_for() -> None:
    came = resume(Qemu("paused", None, dump="active").ask)
    assert (came.done, came.busy) == (False, True)
    assert "dump in process" in came.why
