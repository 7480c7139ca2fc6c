"""What checks and comparisons find, of which the first are kept and all are counted."""

from __future__ import annotations

from typing import Generic, TypeVar

#: Findings that are kept; the others are counted.
MAX_LINES = 100

T = TypeVar("T")


class Findings(Generic[T]):
    """Collects findings in the order in which they come.

    Attributes:
        count: How many there were.
    """

    def __init__(self) -> None:
        self._kept: list[T] = []
        self.count = 0

    @property
    def kept(self) -> tuple[T, ...]:
        """The first of them."""
        return tuple(self._kept)

    def add(self, finding: T) -> None:
        """Note a finding."""
        self.count += 1
        if len(self._kept) < MAX_LINES:
            self._kept.append(finding)
