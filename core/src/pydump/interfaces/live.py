"""A guest that may be running."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from pydump.interfaces.image import MemoryImage
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.report import ProgressCallback


class Narrow(Protocol):
    """Chooses what of a guest's memory need not be captured."""

    def __call__(self, source: MemoryImage, *, paused: bool) -> Ranges:
        """Choose, by reading memory where it lies.

        Args:
            source: The guest, whose memory and facts can be read.
            paused: Whether the guest is paused, so that the answer holds; else it is an estimate.

        Returns:
            What is not needed, in paddr.
        """
        ...


@runtime_checkable
class KnowsResets(Protocol):
    """A guest of which it is known when it is reset."""

    def resets(self) -> int:
        """How often the guest was reset since it was opened.

        Raises:
            SourceError: The guest is gone.
        """
        ...


@runtime_checkable
class Live(Protocol):
    """Guest memory whose guest may be running: its memory and facts stand still only once they are captured."""

    def capture(
        self, wanted: MemoryMap, progress: ProgressCallback | None = None, narrow: Narrow | None = None
    ) -> None:
        """Bring memory and facts to one moment, so that from now on ``guest()`` and ``read_into`` agree.

        Called once, when the plan is settled and the output is open, so that nothing the user did wrong costs the
        guest a stop.

        Args:
            wanted: What of its RAM will be read.
            progress: Told how far it is, where it takes a while.
            narrow: Asked once, when the guest is paused, what need not be captured. What is left out for that is in
                ``excluded()`` afterwards. It may be asked for an estimate before. A source that cannot read
                memory where it lies does not ask, and captures everything.

        Raises:
            SourceError: It failed; the guest runs as it did before.
        """
        ...

    def release(self) -> None:
        """All of its memory has been read: the guest runs again, if it ran before and has not since.

        ``close()`` does the same where a run was cut short.

        Raises:
            SourceError: It does not run again.
        """
        ...

    @property
    def holds(self) -> bool:
        """Does the guest stand still until :meth:`release`?"""
        ...

    @property
    def paused_seconds(self) -> float:
        """How long the guest has stood still so far."""
        ...

    @property
    def consistent(self) -> bool:
        """Is all of memory of one moment?"""
        ...
