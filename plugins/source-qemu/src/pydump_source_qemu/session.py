"""A connection to a guest, and the promise that the guest is afterwards as it was."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any, Final, Self

from pydump.errors import SourceError
from pydump_source_qemu.guard import Guard
from pydump_source_qemu.libvirt import caution
from pydump_source_qemu.limits import LIMITS, Limits
from pydump_source_qemu.mark import UNMARK, mark, note_limit
from pydump_source_qemu.monitor import CommandError, Monitor
from pydump_source_qemu.pause_limit import PauseLimit
from pydump_source_qemu.pipe import await_resumed
from pydump_source_qemu.watchdog import MIGRATED, PAUSE, STOPPED, ForeignError, Resumed, resume

#: Seconds that QEMU may refuse to let the guest run before that is left to the watchdog.
GRACE: Final = 1
#: The run states of a guest that runs, or will when QEMU has put away a dump that has ended.
RUNNING: Final = ("running", "save-vm")
CONT: Final[dict[str, Any]] = {"execute": "cont"}

_log = logging.getLogger("pydump.qmp")


class Session:
    """What was done to a guest, and how it is undone.

    Attributes:
        monitor: The connection.
        resources: What is open as long as the session: files of the QEMU process, room for copies.
        stopped: Whether the guest is paused because of this session.
        consistent: Whether all of memory is of the same moment.
        warnings: What the user should know of how it went, a line each.
        no_dump: Why QEMU does not dump this guest, once it has refused to; else None.
    """

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.resources = contextlib.ExitStack()
        self.stopped = False
        self.consistent = True
        self.warnings: list[str] = []
        self.no_dump: str | None = None
        self._guard: Guard | None = None
        #: The guest's run state before the capture, which it must have afterwards.
        self._state = ""
        #: Whether to detect that somebody lets the guest run, and its resume count when it was paused.
        self._watched = False
        self._resumes = 0
        self._paused = 0.0
        #: What a dump of QEMU's does to others, if nobody has been told yet.
        self._harm: str | None = None
        #: Ends the capture if the guest is paused for too long.
        self.pause_limit = PauseLimit(None)

    @classmethod
    def connect(cls, address: str, timeout: float, limits: Limits = LIMITS) -> Self:
        """Connect to the monitor at ``address`` within ``timeout`` seconds.

        Raises:
            SourceError: There is none, or its guest cannot be captured now.
        """
        session = cls(Monitor.connect(address, timeout, limits))
        try:
            session._harm = caution(session.monitor)
            session._check_state()
            session._lock_out_others()
        except BaseException:
            session.close()
            raise
        return session

    def _check_state(self) -> None:
        try:
            dump = self.monitor.field("query-dump", "status", str)
        except CommandError as error:
            if "machine initialization" not in error.why:
                raise
            raise SourceError(
                "the guest is not made yet: QEMU was started with --preconfig", hint="x-exit-preconfig lets it go on"
            ) from None
        if dump == "active":
            raise SourceError("QEMU is dumping this guest already", hint="wait until query-dump says that it has ended")
        if self.monitor.field("query-status", "status", str) == "inmigrate":
            raise SourceError("the guest has not arrived yet: QEMU waits for an incoming migration")

    def _lock_out_others(self) -> None:
        self._guard = Guard(self.monitor.socket, self.limits)
        marked = mark(self.monitor, self._guard)
        self._state = await_resumed(self.monitor)
        if marked and not self._ran:
            self.warn("an earlier pydump was killed with its watchdog: the guest may be paused because of that")

    @property
    def limits(self) -> Limits:
        """How long and how much."""
        return self.monitor.limits

    @property
    def _ran(self) -> bool:
        return self._state in RUNNING

    def warn(self, line: str) -> None:
        """Warn of how it went."""
        _log.info("%s", line)
        self.warnings.append(line)

    def caution(self, line: str) -> None:
        """Warn of what a capture costs while it can still be interrupted."""
        _log.warning("%s", line)
        self.warnings.append(line)

    def begin(self) -> bool:
        """Note the guest's run state, which it must have afterwards.

        Returns:
            Whether the guest runs.
        """
        self._state = await_resumed(self.monitor)
        if not self._ran:
            _log.info("the guest is %s, and stays so", self._state)
        return self._ran

    @property
    def dumps_harm(self) -> bool:
        """Whether somebody else suffers from a dump of QEMU's, and none was made so far."""
        return self._harm is not None

    def note_limit(self, limit: int) -> None:
        """Write down in QEMU what the migration's limit is, which is changed next: for whoever comes if we are killed.

        Args:
            limit: In bytes a second.
        """
        assert self._guard is not None
        note_limit(self.monitor, self._guard, limit)

    def waited_for(self) -> contextlib.AbstractContextManager[None]:
        """QEMU pauses the guest as long as it dumps, and so as long as we read: Ctrl-Z must not stop us."""
        assert self._guard is not None
        if self._harm is not None:
            self.caution(self._harm)
            self._harm = None
        return self._guard.holding()

    def pause(self) -> None:
        """Pause the guest, if it runs, for no longer than this process lives. Nobody may let it run meanwhile."""
        if self._ran:
            self.arm(CONT)
            self.pause_limit.start()
            self.monitor.command("stop")
            self.stopped = True
        self._watch()

    def paused_by_qemu(self) -> None:
        """QEMU pauses the guest for what comes next, and lets it run by itself unless something comes between."""
        if self._ran:
            self.arm(CONT)
            self.pause_limit.start()
            self.stopped = True
        else:
            self._watch()

    def _watch(self) -> None:
        """From now on nobody may let the guest run, or memory is not consistent."""
        self.monitor.settle()
        self._watched, self._resumes = True, self.monitor.resumes

    def arm(self, *undo: dict[str, Any], pipe: int = -1) -> None:
        """Have the watchdog undo what is done from now on.

        Args:
            undo: Commands, as :mod:`pydump_source_qemu.watchdog` knows them.
            pipe: What "drain" reads from.
        """
        assert self._guard is not None
        self._guard.undo_with(*undo, UNMARK, pipe=pipe)
        self._guard.hold()

    def _disarm(self) -> None:
        assert self._guard is not None
        self._guard.undo_with(UNMARK)
        self._guard.let_go()

    def release(self) -> None:
        """Let the guest run again if we paused it, and check that it does; nothing more is needed of QEMU.

        Raises:
            SourceError: QEMU is gone, or the guest does not run though it ran before.
        """
        self.pause_limit.stop()
        if self._guard is None:
            return
        done = self._let_run() if self._ran else self._stays()
        self.stopped = False
        self.hang_up(wait=done)

    def _stays(self) -> bool:
        """Check that a guest that did not run is as it was. There is nothing left to do in any case."""
        status = await_resumed(self.monitor)
        if self._watched:
            self.monitor.settle()
            self.consistent = self.monitor.resumes == self._resumes and status == self._state
            self._watched = False
        if status != self._state:
            self.warn(f"the guest was {self._state} before the capture and is {status} now: somebody has changed that")
        return True

    def _let_run(self) -> bool:
        """Let the guest run; the watchdog does it if QEMU is busy with what somebody else has begun.

        Returns:
            Whether there is nothing left to do.

        Raises:
            SourceError: It does not run. If we paused it, the watchdog stays until it runs.
        """
        if self._watched:
            self.monitor.settle()
            self.consistent = self.monitor.resumes == self._resumes
            self._watched = False
        came = Resumed(True)
        deadline = time.monotonic() + GRACE
        try:
            while self.stopped and not (came := resume(self._ask)).done and time.monotonic() < deadline:
                time.sleep(PAUSE)
        except ForeignError:
            raise self.monitor.foreign("query-status") from None
        status = await_resumed(self.monitor)
        if came.busy:
            self.arm(CONT)
            self.warn(f"the guest does not run yet, but will as soon as QEMU lets it: {came.why}")
            return False
        if came.why == MIGRATED or (came.done and status not in STOPPED):
            self._disarm()
            self.monitor.settle()
            if status != "running":  # the guest may sleep, power off or panic by itself
                self.warn(came.why or f"the guest ran before the capture and is {status} now")
            return True
        if self.stopped:
            self.arm(CONT)
            hint = "a watchdog process goes on trying to let it run"
        else:
            self._disarm()
            hint = "somebody else has paused it; QMP's cont lets it run"
        self.hang_up(wait=not self.stopped)
        why = came.why or f"it is {status}"
        raise SourceError(f"the guest ran before the capture and does not run now: {why}", hint=hint)

    def _ask(self, name: str) -> dict[str, Any]:
        try:
            return {"return": self.monitor.command(name)}
        except CommandError as error:
            return {"error": {"desc": error.why}}

    def hang_up(self, *, wait: bool = True) -> None:
        """Close the monitor, for others to have it, and the watchdog.

        Args:
            wait: Wait until the watchdog has undone what is left to undo.
        """
        self.pause_limit.stop()
        if self._guard is None:
            return
        self._paused = self.monitor.paused_seconds
        # In this order: of two that read the connection, one would miss what the other gets.
        self.monitor.close()
        self._guard.close(wait=wait)
        self._guard = None

    @property
    def paused_seconds(self) -> float:
        """How long the guest was paused since we connected."""
        return self._paused if self._guard is None else self.monitor.paused_seconds

    def resets(self) -> int:
        """How often the guest was reset since we connected.

        Raises:
            SourceError: QEMU is gone.
        """
        self.monitor.settle()
        return self.monitor.resets

    def describe(self) -> tuple[tuple[str, str], ...]:
        """Lines for ``pydump info``."""
        status = self.monitor.field("query-status", "status", str)
        return (("QEMU", f"{self.monitor.version}, process {self.monitor.pid or 'unknown'}, guest {status}"),)

    def close(self) -> None:
        """Undo what is not undone, and close everything."""
        self.hang_up()
        self.monitor.close()
        self.resources.close()
