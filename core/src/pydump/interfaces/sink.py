"""The sink role: where positioned writes go. Only a sink writes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydump.options import NoOptions


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes with their place in the output.

    Attributes:
        offset: Where they go.
        data: The bytes, of any length; a memoryview is contiguous, and its items may be of any type.
    """

    offset: int
    data: bytes | bytearray | memoryview

    @property
    def size(self) -> int:
        """Bytes."""
        return self.data.nbytes if isinstance(self.data, memoryview) else len(self.data)


@dataclass(frozen=True, slots=True)
class Hole:
    """A run of zeros with its place in the output; a sink that can leaves it unwritten.

    Attributes:
        offset: Where it begins.
        size: Bytes.
    """

    offset: int
    size: int


class Sink(ABC):
    """An output. Bytes that are never written read as zero. It appears whole, at :meth:`commit`, or not at all."""

    #: The name before the colon on the command line.
    name: ClassVar[str]
    #: Can it write at any offset? If not, extents must come in ascending order.
    seekable: ClassVar[bool]
    #: May :meth:`write` be called in a forked process?
    shared: ClassVar[bool] = False
    Options: ClassVar[type] = NoOptions

    @classmethod
    @abstractmethod
    def open(cls, argument: str, options: Any = None, *, force: bool = False, sync: bool = True) -> Self:
        """Open what stands after the colon for writing.

        Args:
            argument: A path, a URL: what the sink understands.
            options: An instance of ``Options``, or None for the defaults.
            force: Replace what is there.
            sync: At :meth:`commit`, wait until the data is stored for good, as fsync does. Without it a power cut may
                lose the output.

        Raises:
            PlanError: Something is there and ``force`` is not set.
            SinkError: It cannot be written.
        """

    @abstractmethod
    def write(self, extent: Extent | Hole) -> None:
        """Write an extent.

        Raises:
            SinkError: It could not be written.
        """

    @abstractmethod
    def commit(self, size: int) -> None:
        """The output is complete and ``size`` bytes long: make it appear.

        Raises:
            SinkError: It could not be completed, and nothing is left; or it is there, and the message says so.
        """

    @abstractmethod
    def abort(self) -> None:
        """Leave nothing behind. Called in place of :meth:`commit`, or after one that failed; never raises."""
