"""Where positioned writes go. Only a sink writes; a storage opens it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, ClassVar, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from pydump.interfaces.backing import Backing

#: Zeros that are written at once.
_ZEROS: Final = 1 << 20

#: Where a sink takes extents.
#:
#: ``anywhere``: at any offset, in any order, and again: what comes last is there, also where it is a hole.
#: ``parts``: at any offset, in any order, each byte once: what is complete may be gone. The headers, that is what lies
#: before the first 5 MiB, may be written again; they go last.
#: ``ascending``: in ascending order of offset.
Placement = Literal["anywhere", "parts", "ascending"]


class Extent(NamedTuple):
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


class Hole(NamedTuple):
    """A run of zeros with its place in the output; a sink that can leaves it unwritten.

    Attributes:
        offset: Where it begins.
        size: Bytes.
    """

    offset: int
    size: int

    def zeros(self, end: int) -> Iterator[Extent]:
        """What of it has to be written after all: it may lie over bytes that were written before.

        Args:
            end: Where the last byte that was written so far ends. There is nothing of the output behind it.
        """
        for at in range(self.offset, min(self.offset + self.size, end), _ZEROS):
            yield Extent(at, bytes(min(_ZEROS, self.offset + self.size - at, end - at)))


class SharedOutput(ABC):
    """An output that another process has open, as workers on other hosts reach it. It is small, and can be pickled."""

    @abstractmethod
    def reached(self) -> bool:
        """Whether this process reaches it."""

    @abstractmethod
    def write(self, extents: Iterable[Extent | Hole]) -> None:
        """Write extents, each of which may have been written before with the same bytes.

        Raises:
            SinkError: They could not be written.
        """


class SharedParts(ABC):
    """An output of placement ``parts`` as other hosts reach it. It is small, and can be pickled."""

    @abstractmethod
    def reached(self) -> bool:
        """Whether this process reaches it."""

    @abstractmethod
    def part_at(self, offset: int) -> tuple[int, int, int]:
        """The part in which a byte of the output lies: its number, where it begins, and its size."""

    @abstractmethod
    def store(self, number: int, data: bytes | bytearray) -> str:
        """Store a whole part, which may have been stored before with the same bytes.

        Returns:
            What :meth:`Sink.stored` is to be told.

        Raises:
            SinkError: It could not be stored.
        """


class Sink(ABC):
    """An output. Bytes that are never written read as zero. It appears whole, at :meth:`commit`, or not at all."""

    #: In which order it takes extents.
    placement: ClassVar[Placement]
    #: May :meth:`write` be called in a forked process?
    shared: ClassVar[bool] = False
    #: Bytes that an earlier run, which this one continues, had stored and that were not stored again.
    resumed_size: int = 0

    @abstractmethod
    def write(self, extent: Extent | Hole) -> None:
        """Write an extent.

        Raises:
            SinkError: It could not be written.
        """

    def written(self) -> Backing | None:
        """What was written so far, to be read in this process; None where it can only be read once it has appeared.

        The caller closes it.
        """
        return None

    def share(self) -> SharedOutput | SharedParts | None:
        """How processes that did not inherit this sink write to it; None where they cannot."""
        return None

    def stored(self, number: int, token: str) -> None:
        """Another process has stored a part, of which nothing is written here.

        Args:
            number: The part's.
            token: What :meth:`SharedParts.store` returned.
        """
        raise NotImplementedError(f"{type(self).__name__} shares no parts")

    def prepare(self, size: int) -> None:
        """The output is complete and ``size`` bytes long: do all that :meth:`commit` does, but let nothing appear.

        Called before :meth:`commit`, so that several outputs appear at once. This default leaves all to that.

        Raises:
            SinkError: It could not be completed.
        """

    @abstractmethod
    def commit(self, size: int) -> None:
        """The output is complete and ``size`` bytes long: make it appear.

        Raises:
            SinkError: It could not be completed, and nothing is left; or it is there, and the message says so.
        """

    @abstractmethod
    def abort(self) -> None:
        """Leave nothing behind. Called instead of :meth:`commit`, or after one that failed; never raises."""

    def retract(self) -> None:
        """Remove what :meth:`commit` made appear, because another file of the same dump could not; never raises.

        This default leaves it there.
        """
