"""A source that hears what happens to its guest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Protocol, Self, runtime_checkable


class Watch(ABC):
    """A connection to a guest, which hears of one kind of event. Use it as a context manager.

    Attributes:
        warnings: Why the event may not be heard of, a line each.
    """

    warnings: Sequence[str] = ()

    @abstractmethod
    def wait(self, seconds: float) -> bool:
        """Whether the event has happened since the watch began, or the guest is in its state: at the latest then.

        Args:
            seconds: How long to wait for it.

        Raises:
            SourceError: The guest is gone.
        """

    @abstractmethod
    def close(self) -> None:
        """Hang up, so that others can have the connection."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@runtime_checkable
class Watches(Protocol):
    """A source that hears what happens to its guest."""

    #: What it hears of, as in ``--on``: such as "panicked".
    events: ClassVar[Collection[str]]

    @classmethod
    def watch(cls, argument: str, event: str, options: Any = None, *, known: bool = False) -> Watch:
        """Connect to a guest, which is not paused.

        Args:
            argument: The text after the colon of the source.
            event: One of ``events``.
            options: An instance of ``Options``, or None for the defaults.
            known: Whether the state that the event leads to, if the guest is in it now, is known already: then the
                next event is waited for.

        Raises:
            SourceError: There is no guest.
        """
        ...
