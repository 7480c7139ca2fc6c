"""A guest that may be running, and its capture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import ClassVar, Protocol, Self, runtime_checkable

from pydump.interfaces.image import MemoryImage
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.progress import ProgressCallback


class Narrow(Protocol):
    """Chooses what of a guest's memory need not be captured."""

    def __call__(self, image: MemoryImage, *, paused: bool) -> Ranges:
        """Choose, by reading memory where it lies.

        Args:
            image: The guest's memory and facts.
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


class Capture(ABC):
    """A capture of a live guest: a context manager that captures on entry and gives the image.

    On exit the guest runs again, if it ran before and has not since. If the run was cut short by an exception, the
    guest is released as well, and the exception goes on. If the capture itself fails, the guest is released before
    the error is raised.
    """

    @abstractmethod
    def __enter__(self) -> MemoryImage:
        """Capture.

        Returns:
            Memory and facts that agree with each other. What ``narrow`` left out is in ``excluded()``.

        Raises:
            SourceError: It failed; the guest runs as it did before.
        """

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the guest.

        Raises:
            SourceError: It does not run again.
        """

    @property
    @abstractmethod
    def holds(self) -> bool:
        """Whether the guest is paused until exit, because its memory is read where it lies."""

    @property
    @abstractmethod
    def paused_seconds(self) -> float | None:
        """How long the guest was paused so far."""

    @property
    @abstractmethod
    def consistent(self) -> bool:
        """Whether all of memory is of the same moment. It is known on exit."""


class LiveGuest(ABC):
    """A guest that may be running, so that its memory and facts change until it is captured."""

    #: Whether the guest is paused as long as it is open, so that nothing changes in it.
    paused_while_open: ClassVar[bool] = False

    @abstractmethod
    def view(self) -> MemoryImage:
        """The guest's facts, and memory where it lies, which changes while the guest runs.

        Only the process that opened the guest can read it. Closing the view changes nothing.
        """

    @abstractmethod
    def capture(
        self, wanted: MemoryMap, progress: ProgressCallback | None = None, narrow: Narrow | None = None
    ) -> Capture:
        """A capture, which begins when its context is entered. A guest is captured once.

        It is entered when the plan is made and the output is open, so that no mistake of the user pauses the guest.

        Args:
            wanted: What of its RAM will be read.
            progress: Told how far it is, where it takes a while.
            narrow: Asked once, when the guest is paused, what need not be captured. It may be asked for an estimate
                before. A guest whose memory cannot be read where it lies does not ask, and captures everything.
        """

    @abstractmethod
    def close(self) -> None:
        """Undo what is not undone, and close files and connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
