"""What checks and comparisons write instead of a file: lines, and a count of bytes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Self

from pydump.errors import PlanError
from pydump.interfaces.format import Batch, Encoded, Writer
from pydump.interfaces.sink import Extent, Hole, Sink
from pydump.model.memory import PADDR_END, Ranges

#: Findings that are kept; the others are counted.
MAX_LINES = 100
#: Stands between findings on their way from a worker: names of files in them may hold anything but this.
SEPARATOR = "\0"


class Findings(Sink):
    """Collects lines, in the order of the memory they speak of, whoever found them.

    Attributes:
        count: How many there were.
    """

    name: ClassVar[str] = "findings"
    seekable: ClassVar[bool] = False

    def __init__(self) -> None:
        self._lines: list[str] = []
        self.count = 0

    @property
    def lines(self) -> tuple[str, ...]:
        """The first of them."""
        return tuple(self._lines)

    @classmethod
    def open(cls, argument: str, options: Any = None, *, force: bool = False, sync: bool = True) -> Self:
        raise PlanError("findings are not an output")

    def add(self, line: str) -> None:
        """Note a finding."""
        self.count += 1
        if len(self._lines) < MAX_LINES:
            self._lines.append(line)

    def write(self, extent: Extent | Hole) -> None:
        if isinstance(extent, Extent):
            for line in bytes(extent.data).decode(errors="surrogateescape").split(SEPARATOR):
                self.add(line)

    def commit(self, size: int) -> None:
        """There is nothing to complete."""

    def abort(self) -> None:
        """There is nothing to undo."""


class FindingsWriter(Writer):
    """Looks at batches and writes lines.

    Args:
        stored: The memory to look at.
    """

    sequential: ClassVar[bool] = True
    max_hole: ClassVar[int] = PADDR_END

    def __init__(self, stored: Ranges) -> None:
        self.stored = stored
        self.unit = 1
        self.start = 0
        self.size_limit = 0

    @abstractmethod
    def findings(self, batch: Batch) -> Iterator[str]:
        """What there is to say about a batch, a line each."""

    def layout(self) -> Iterator[Extent | Hole]:
        return iter(())

    def encode(self, batch: Batch) -> Encoded:
        text = SEPARATOR.join(self.findings(batch)).encode(errors="surrogateescape")
        return Encoded(batch.position, len(text), text, None, batch.size, 0)

    def extents(self, encoded: Encoded, start: int) -> Iterator[Extent | Hole]:
        if encoded.payload:
            yield Extent(start, encoded.payload)
