"""Which process is a QEMU, and memory that libvirt reads. This process stands in for QEMU: it holds the socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, cast

import pytest

from pydump.errors import SourceError
from pydump.model.memory import RamBlock
from pydump_qemu_stream.process import ImpossibleError
from pydump_source_libvirt import where
from pydump_source_libvirt.domain import Domain
from pydump_source_libvirt.where import Fetched, process_of


class Sent:
    """A domain whose QEMU keeps what it is sent.

    Attributes:
        owner: The label in its XML.
    """

    uri = "qemu:///session"

    def __init__(self, label: str = "") -> None:
        self.label = label
        self.held: list[int] = []

    def monitor(self, command: str, files: Sequence[int] = (), **arguments: Any) -> None:
        if command == "getfd":
            self.held = [os.dup(fd) for fd in files]
        for fd in self.held if command == "closefd" else ():
            os.close(fd)

    def xml(self) -> bytes:
        seclabel = f"<seclabel model='dac'><label>{self.label}</label></seclabel>" if self.label else ""
        return f"<domain><os><type arch='x86_64'>hvm</type></os>{seclabel}</domain>".encode()

    def peek(self, paddr: int, size: int) -> bytes:
        return bytes(size - 1)


def domain(label: str = "") -> Domain:
    return cast(Domain, Sent(label))


@pytest.mark.parametrize("label", ["", f"+{os.geteuid()}:+{os.getegid()}"])
def test_who_holds_the_socket_is_qemu(label: str) -> None:
    with process_of(domain(label)) as process:
        assert process.pid == os.getpid()
        assert "[stack]" in process.text("maps")


@pytest.mark.parametrize("label", ["+4711:+4711", f"+4711:+{os.getegid()}"])
def test_a_process_of_another_user_is_not_read(label: str) -> None:
    """As a program that gives its user more rights, and that QEMU has handed its descriptors to."""
    with pytest.raises(ImpossibleError, match="has become another user's"), process_of(domain(label)):
        pass


def test_where_two_processes_hold_the_socket_neither_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(where, "HANDOVER", 0.2)
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[theirs.fileno()]) as child,
    ):
        inode = os.fstat(theirs.fileno()).st_ino
        with pytest.raises(ImpossibleError, match="several processes hold its descriptors"):
            where._holder(inode)
        child.communicate(b"\n")
        assert where._holder(inode) == os.getpid()
    with pytest.raises(ImpossibleError, match="this user sees no process that is QEMU"):
        where._holder(inode)


def test_memory_that_libvirt_reads_has_the_size_that_was_asked_for() -> None:
    with pytest.raises(SourceError, match="^libvirt gave 4095 bytes of memory at 0x1000 instead of 4096"):
        Fetched(domain(), (RamBlock(0x1000, 0x1000),))
