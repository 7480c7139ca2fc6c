"""Whose memory is read: the process that serves the monitor, and no other."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pydump_qemu_stream.process import ImpossibleError, Process

#: A server at a path; "then" is what becomes of it when it has a client.
SERVER = """
import os, socket, sys, time
path, then = sys.argv[1:]
server = socket.socket(socket.AF_UNIX)
server.bind(path)
if then == "regains rights":
    os.setegid(65534)
    os.seteuid(65534)
server.listen()
print(flush=True)
client = server.accept()[0]
if then == "execs with it":
    os.set_inheritable(client.fileno(), True)
if then in ("execs", "ends", "execs with it") and (child := os.fork()) == 0:
    client.send(str(os.getppid()).encode())
    time.sleep(30)
if then == "regains rights":
    os.seteuid(0)
    os.setegid(0)
if then == "ends":
    sys.exit()
if then.startswith("execs"):
    os.execvp("sleep", ["sleep", "30"])
client.send(str(os.getpid()).encode())
time.sleep(30)
"""


@contextlib.contextmanager
def served(directory: Path, then: str) -> Iterator[tuple[socket.socket, int]]:
    """A connection to a server, and the process that made it; both end with the block."""
    path = directory / "socket"
    command = [sys.executable, "-c", SERVER, str(path), then]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as server:
        try:
            assert server.stdout is not None
            server.stdout.readline()
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                pid = int(connection.recv(20))
                if then == "ends":
                    server.wait(10)
                else:  # until it is what it becomes
                    while then.startswith("execs") and b"sleep" not in Path(f"/proc/{pid}/cmdline").read_bytes()[:6]:
                        pass
                yield connection, pid
        finally:
            os.killpg(server.pid, 9)


def test_the_process_behind_a_monitor(tmp_path: Path) -> None:
    with served(tmp_path, "stays") as (connection, pid):
        process = Process.behind(connection)
        try:
            assert process.pid == pid
            assert "[stack]" in process.text("maps")
            os.close(process.open("mem"))
        finally:
            process.close()


def test_a_server_that_execs_with_the_socket_is_the_same_process(tmp_path: Path) -> None:
    with served(tmp_path, "execs with it") as (connection, pid):
        process = Process.behind(connection)
        assert process.pid == pid
        process.close()


@pytest.mark.parametrize(
    ("then", "why"),
    [("execs", "does not hold the socket"), ("ends", "cannot be opened"), ("regains rights", "another user's")],
)
def test_the_memory_of_another_process_is_not_read(tmp_path: Path, then: str, why: str) -> None:
    if then == "regains rights" and os.geteuid():
        pytest.skip("only root can give up rights and take them back")
    with served(tmp_path, then) as (connection, _), pytest.raises(ImpossibleError, match=why):
        Process.behind(connection)


def test_a_process_that_hands_its_monitor_on_is_not_read_any_more(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        process = Process.behind(ours)
        assert process.pid == os.getpid()
        os.close(process.open("mem"))
        theirs.close()
        with pytest.raises(ImpossibleError, match="not say which process|does not hold the socket"):
            process.open("mem")
        process.close()


def test_tcp_shows_no_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with socket.create_connection(address) as connection, pytest.raises(ImpossibleError, match="not visible"):
            Process.behind(connection)
