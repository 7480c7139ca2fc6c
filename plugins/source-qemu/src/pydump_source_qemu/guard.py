"""Undoes what this process did to the guest, even if this process is killed."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydump.process import start_watcher
from pydump.signals import Unstopped, put_off
from pydump_source_qemu.limits import LIMITS, Limits
from pydump_source_qemu.watchdog import undo


class Guard:
    """A watchdog process beside this one, and what it has to undo.

    A QMP socket serves one client at a time, so the watchdog gets a duplicate of the connection that is there.

    Args:
        connection: The QMP connection.
        limits: How long undoing may take.

    Raises:
        SourceError: No process can be started.
    """

    def __init__(self, connection: socket.socket, limits: Limits = LIMITS) -> None:
        self._limits = limits
        # What is left when the connection has been closed: with it, what the watchdog cannot do is done here.
        self._connection = connection.dup()
        self._commands: tuple[dict[str, Any], ...] = ()
        self._pipe = -1
        self._unstopped = Unstopped()
        self._start()

    def _start(self) -> None:
        self._process, self._lifeline = start_watcher(
            Path(__file__).with_name("watchdog.py"), *map(str, self._limits.watchdog)
        )

    @property
    def pid(self) -> int:
        """The watchdog process."""
        return self._process.pid

    def undo_with(self, *commands: dict[str, Any], pipe: int = -1) -> None:
        """These commands, as watchdog.py knows them, undo what is done from now on; none: there is nothing to undo.

        Args:
            commands: The commands.
            pipe: What "drain" reads from; it is held open as long as it may be needed.

        Raises:
            SourceError: The watchdog has been killed, and no other can be started.
        """
        self._commands, self._pipe = commands, pipe
        try:
            self._send()
        except (BrokenPipeError, ConnectionResetError):
            self._process.wait()
            self._lifeline.close()
            if commands:
                self._start()
                self._send()

    def _send(self) -> None:
        fds = [self._connection.fileno(), *([self._pipe] if self._pipe >= 0 else [])] if self._commands else []
        socket.send_fds(self._lifeline, [json.dumps(self._commands).encode()], fds)

    def hold(self) -> None:
        """The guest waits for this process: Ctrl-Z must not stop it."""
        self._unstopped.hold()

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """The guest waits for this process within the block."""
        held = self._unstopped.held
        self.hold()
        try:
            yield
        finally:
            if not held:
                self.let_go()

    def let_go(self) -> None:
        """The guest waits no longer."""
        self._unstopped.let_go()

    def close(self, *, wait: bool = True) -> None:
        """Undo what is left, and end the watchdog. Nobody else may use the connection now.

        Args:
            wait: Wait until that has been done, though not for ever.
        """
        if self._lifeline.fileno() >= 0:
            with put_off():
                with contextlib.suppress(OSError):  # its other end may be gone; a child of ours may hold this one
                    self._lifeline.shutdown(socket.SHUT_RDWR)
                self._lifeline.close()
                try:
                    failed = self._process.wait(self._limits.close if wait else 0)
                except subprocess.TimeoutExpired:
                    self._process.returncode = failed = 0  # it goes on by itself; say nothing of it at exit
                if failed:  # somebody has killed it
                    patience = self._limits.watchdog._replace(total=self._limits.close)
                    undo(self._connection, list(self._commands), self._pipe, patience)
        with contextlib.suppress(OSError):
            self._connection.close()
        self.let_go()
