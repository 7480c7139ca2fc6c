"""The source role: bytes of guest memory, and the facts of the guest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.report import ProgressCallback
from pydump.options import NoOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Source(ABC):
    """Guest memory that can be read, and what is known of the guest.

    Reading must be safe from forked processes: use positioned reads, never a shared file position.
    """

    #: The name before the colon on the command line: ``raw`` in ``raw:ram.bin@0``.
    name: ClassVar[str]

    #: A dataclass of options, as in :mod:`pydump.options`.
    Options: ClassVar[type] = NoOptions

    @classmethod
    @abstractmethod
    def open(cls, argument: str, options: Any = None) -> Self:
        """Open what stands after the colon.

        Args:
            argument: The text after the colon.
            options: An instance of ``Options``, or None for the defaults.

        Raises:
            SourceError: It cannot be opened.
        """

    @abstractmethod
    def guest(self) -> Guest:
        """The facts, as far as the source knows them. May be called more than once."""

    @abstractmethod
    def read_into(self, paddr: int, buffer: memoryview) -> None:
        """Fill all of ``buffer`` with guest memory from ``paddr`` on.

        The range lies within RAM (``guest().memory``). Bytes in :meth:`excluded` or :meth:`unreadable` are zero.

        Raises:
            ReadError: Something in the range cannot be read.
        """

    def read_runs(self, runs: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        """Fill ``buffer`` with many ranges, end to end, as :meth:`read_into` does with one.

        A source to which a range is dear, be it short or long, does better than this.

        Args:
            runs: ``(start, end)`` in paddr, ascending.
            buffer: As long as all of them.

        Raises:
            ReadError: Something in the ranges cannot be read.
        """
        at = 0
        for start, end in runs:
            self.read_into(start, buffer[at : at + end - start])
            at += end - start

    def excluded(self) -> Ranges:
        """RAM that the source left out by choice (a filtered dump)."""
        return Ranges.empty()

    def unreadable(self) -> Ranges:
        """RAM that the source should hold and knows it does not (an incomplete dump)."""
        return Ranges.empty()

    def flaws(self) -> Iterator[str]:
        """One line for each thing in headers and notes that keeps other readers from the file, and not this one."""
        return iter(())

    def describe(self) -> tuple[tuple[str, str], ...]:
        """``(label, value)`` lines about the source itself, for ``pydump info``."""
        return ()

    def warnings(self) -> tuple[str, ...]:
        """What the user should know, a line each: what is missing or odd in what was opened, and how reading went.

        The first is there at once and a fault of the source, which a check of it counts. The second is there when all
        has been read.
        """
        return ()

    def close(self) -> None:
        """Let go of files and connections. Reading afterwards is an error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@runtime_checkable
class KnowsHoles(Protocol):
    """A source that can say what of its memory is zero without reading it (holes of a sparse file)."""

    def data_ranges(self, paddr: int, size: int) -> Iterator[tuple[int, int]]:
        """``(start, end)`` in paddr of what may hold data within the range, ascending; the rest is zero."""
        ...


@runtime_checkable
class KnowsVaddrs(Protocol):
    """A source whose maker gave guest memory virtual addresses, as the PT_LOADs of /proc/vmcore have them."""

    def mappings(self) -> NDArray[np.uint64]:
        """Rows of vaddr, paddr and size, shape (n, 3); none where there are no addresses beside the physical ones."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a file some guest memory is stored.

    Attributes:
        path: The file.
        offset: In bytes from its start.
        size: Bytes there; of a page that is compressed, less than a page.
        compression: What it is compressed with, or "none".
    """

    path: str
    offset: int
    size: int
    compression: str


@runtime_checkable
class KnowsPlaces(Protocol):
    """A source that can say where in its file some memory is stored."""

    def place(self, paddr: int) -> Place | None:
        """Where the page of ``paddr`` is stored, or None where the file does not hold it."""
        ...


@dataclass(frozen=True, slots=True)
class StoredPages:
    """Pages as a file holds them, so that another file can take them over without decompressing and compressing.

    Attributes:
        sizes: Bytes of each page in the payload, shape (n,), int64; 0 for a page of zeros.
        compressed: Whether each page is compressed, shape (n,).
        payload: The pages end to end, but those of zeros.
    """

    sizes: NDArray[np.int64]
    compressed: NDArray[np.bool]
    payload: bytes


@runtime_checkable
class HoldsStoredPages(Protocol):
    """A source whose pages are compressed one by one and can be taken over as they are."""

    def stored_pages(self, runs: Sequence[tuple[int, int]], page_size: int, compression: str) -> StoredPages | None:
        """The pages of ``runs`` as they are stored.

        Args:
            runs: ``(start, end)`` in paddr, whole pages.
            page_size: Bytes of a page.
            compression: The compressor that those which are compressed must be compressed with, or "none".

        Returns:
            The pages, or None when they are stored otherwise.

        Raises:
            FormatError: The table of pages is damaged.
        """
        ...


@runtime_checkable
class Verifiable(Protocol):
    """A source that can check its own structure beyond what reading it checks."""

    def problems(self) -> Iterator[str]:
        """One line for each fault found in headers, tables and notes."""
        ...


class Narrow(Protocol):
    """Chooses what of a guest's memory need not be captured."""

    def __call__(self, source: Source, *, paused: bool) -> Ranges:
        """Choose, by reading memory where it lies.

        Args:
            source: The guest, whose memory and facts can be read.
            paused: Whether the guest is paused, so that the answer holds; else it is an estimate.

        Returns:
            What is not needed, in paddr.
        """
        ...


@runtime_checkable
class Live(Protocol):
    """A source whose guest may be running: its memory and facts stand still only once they are captured."""

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
