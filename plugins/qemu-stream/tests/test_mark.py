"""The mark of a pydump that is at work: whose it is, whether that still runs, and what it has changed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pydump_qemu_stream.mark import identity, is_gone, limit_of, names


@pytest.fixture
def ended() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_mark_holds_as_long_as_one_of_its_processes(ended: int) -> None:
    assert not is_gone(identity(ended, os.getpid()))
    assert not is_gone(identity(os.getpid(), ended, limit=1))
    assert is_gone(identity(ended))
    assert is_gone(identity(ended, ended, limit=1))


def test_a_mark_of_another_system_holds() -> None:
    assert not is_gone("another 1:1")
    assert not is_gone("- 1:1")


def test_a_mark_names_its_processes(ended: int) -> None:
    text = identity(os.getpid(), limit=1)
    assert names(text, os.getpid())
    assert not names(text, os.getppid())
    assert not names(f"another {text.split()[1]}", os.getpid())
    assert not names(f"{text.split()[0]} {os.getpid()}:1", os.getpid())  # an earlier process with this number


@pytest.mark.parametrize(
    ("fields", "limit"),
    [("max-bandwidth=134217728", 134217728), ("", None), ("max-bandwidth=", None), ("max-bandwidth=-1", None),
     ("max-bandwidth=" + "9" * 30, None), ("max-bandwidth=1e9", None), ("other=1", None)],
)  # fmt: skip
def test_what_a_mark_says_of_the_limit(fields: str, limit: int | None) -> None:
    assert limit_of(f"system 1:1 {fields}") == limit
