"""Limits how fast a dump reads guest memory."""

from __future__ import annotations

import multiprocessing
import time

from pydump.errors import PlanError
from pydump.interfaces.executor import Executor


class Pace:
    """Holds processes back that together read too fast. Those that are forked share it.

    Args:
        rate: Bytes a second.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        #: When what was read so far may be done with, by the monotonic clock, which all processes of a host share.
        self._due = multiprocessing.get_context("fork").Value("d", 0.0)

    @classmethod
    def of(cls, rate: int | None, executor: Executor) -> Pace | None:
        """A pace for the workers of an executor; None where there is no limit.

        Raises:
            PlanError: The rate is not positive, or the workers cannot share it.
        """
        if rate is None:
            return None
        if rate <= 0:
            raise PlanError(f"--max-rate must be at least 1, not {rate}", hint="write bytes per second: 200M")
        if not executor.inherits:
            raise PlanError(f"the workers of executor {executor.name} cannot share --max-rate", hint="leave one out")
        return cls(rate)

    def take(self, size: int) -> None:
        """Wait until ``size`` bytes that were read are in time."""
        now = time.monotonic()
        with self._due.get_lock():
            self._due.value = due = max(self._due.value, now) + size / self._rate
        time.sleep(max(0.0, due - now))
