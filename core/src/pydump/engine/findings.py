"""What checks and comparisons find: lines, of which the first are kept and all are counted."""

from __future__ import annotations

#: Findings that are kept; the others are counted.
MAX_LINES = 100


class Findings:
    """Collects lines in the order in which they come.

    Attributes:
        count: How many there were.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self.count = 0

    @property
    def lines(self) -> tuple[str, ...]:
        """The first of them."""
        return tuple(self._lines)

    def add(self, line: str) -> None:
        """Note a finding."""
        self.count += 1
        if len(self._lines) < MAX_LINES:
            self._lines.append(line)
