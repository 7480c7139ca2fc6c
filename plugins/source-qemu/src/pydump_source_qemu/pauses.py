"""What QEMU's events say: how long the guest was paused, and what else has happened to it."""

from __future__ import annotations

import time

from qemu.qmp import Message

from pydump_source_qemu.events import EVENTS


class Pauses:
    """How often and how long the guest was paused, by QEMU's events and clock. Source: qapi/run-state.json."""

    def __init__(self) -> None:
        self.resumes = 0
        self.resets = 0
        #: Names of events that have come, of those that somebody may wait for.
        self.heard: set[str] = set()
        self._paused = 0.0
        self._since: float | None = None

    def fold(self, event: Message) -> bool:
        """Take in an event, of which nothing is kept; so a flood of them takes no memory.

        Raises:
            ValueError: It is not one of QEMU's.
        """
        if not isinstance(event["event"], str):
            raise ValueError("an event without a name")
        if event["event"] == "RESET":
            self.resets += 1
        if any(event["event"] == known.name for known in EVENTS.values()):
            self.heard.add(event["event"])
        if event["event"] not in ("STOP", "RESUME", "WAKEUP"):  # a guest that wakes from S3 sends only the latter
            return False
        at = _moment(event.get("timestamp"))
        if event["event"] == "STOP":
            self._since = at if self._since is None else self._since
            return False
        self.resumes += 1
        if self._since is not None:
            self._paused += max(0.0, at - self._since)
            self._since = None
        return False

    @property
    def seconds(self) -> float:
        """How long, until now."""
        return self._paused + (max(0.0, time.time() - self._since) if self._since is not None else 0.0)


def _moment(stamp: object) -> float:
    """Seconds since 1970. QEMU says -1 where its host has no clock. Source: docs/interop/qmp-spec.rst."""
    if isinstance(stamp, dict):
        seconds, microseconds = stamp.get("seconds"), stamp.get("microseconds")
        if type(seconds) is int and type(microseconds) is int and abs(seconds) < 1 << 40 and -1 <= microseconds < 10**6:
            return seconds + microseconds / 1e6
    raise ValueError("an event without a time")
