"""Ends a capture that pauses the guest for too long."""

from __future__ import annotations

import signal
import threading
from typing import Any

from pydump.errors import PlanError


class PauseTooLongError(KeyboardInterrupt):
    """The guest has been paused for as long as the user allows.

    It is raised wherever the main thread is, as Ctrl-C is, and takes the same way out: nothing that handles errors
    stops it.
    """

    #: What to send again where Python drops the exception, because it was raised within a finalizer.
    signal_number = signal.SIGALRM


class PauseLimit:
    """A timer that runs while the guest is paused.

    Args:
        seconds: How long the guest may be paused, or None for no limit.

    Raises:
        PlanError: There is a limit, and this is not the main thread, which alone can be interrupted.
    """

    def __init__(self, seconds: float | None) -> None:
        if seconds is not None and threading.current_thread() is not threading.main_thread():
            raise PlanError("--timeout needs the main thread of the process")
        self.seconds = seconds
        self._before: Any = None
        self._active = False

    def start(self) -> None:
        """The guest is paused now."""
        if self.seconds is not None and not self._active:
            self._active = True
            self._before = signal.signal(signal.SIGALRM, self._expired)
            signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def stop(self) -> None:
        """The guest runs again, or what comes next lets it run."""
        if self._active:
            self._active = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)

    def _expired(self, number: int, frame: object) -> None:
        if self._active:  # else it was put off, and came too late
            raise PauseTooLongError
