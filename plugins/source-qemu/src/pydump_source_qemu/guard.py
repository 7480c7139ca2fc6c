"""Whatever becomes of this process, what it did to the guest is undone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

#: Seconds that undoing may take before this process goes on without knowing; the watchdog stays at it.
PATIENCE: Final = 10


class Guard:
    """A watchdog process beside this one, and what it has to undo.

    A QMP socket serves one client at a time, so the watchdog holds a duplicate of the connection that is there.

    Args:
        connection: File descriptor of the QMP connection.
        keep: File descriptors that stay open, under their numbers, as long as the watchdog is at work.
    """

    def __init__(self, connection: int, keep: Sequence[int] = ()) -> None:
        reader, self._lifeline = os.pipe2(os.O_CLOEXEC)
        script = Path(__file__).with_name("watchdog.py")
        try:
            # A session of its own: neither Ctrl-C nor the end of the terminal reaches it.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(script), str(connection), str(reader)],
                pass_fds=[connection, reader, *keep],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(reader)

    def undo_with(self, *commands: dict[str, Any]) -> None:
        """These commands, as watchdog.py knows them, undo what is done from now on; none: there is nothing to undo."""
        os.write(self._lifeline, json.dumps(commands).encode() + b"\n")

    def close(self) -> None:
        """Undo what is left, and end the watchdog."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.returncode = 0  # it goes on by itself; say nothing of it at exit
