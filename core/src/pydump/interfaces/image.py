"""Guest memory that does not change, and what is known of the guest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, runtime_checkable

from pydump.errors import UnsupportedError
from pydump.model.guest import Cpu, Guest
from pydump.model.memory import Ranges

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pydump.interfaces.arch import Arch


class Reopen(ABC):
    """How another process, perhaps on another host, opens the same memory. It is small, and can be pickled."""

    @abstractmethod
    def open(self) -> MemoryImage:
        """Open the memory again.

        Raises:
            PydumpError: It cannot be opened here, or has changed since.
        """


class MemoryImage(ABC):
    """Guest memory that does not change, and what is known of the guest: an open dump, or a guest that was captured.

    Reading must be safe from forked processes: use positioned reads, never a shared file position.
    """

    #: What :meth:`reopen` returns; whoever opens the image sets it. For a format's image that is done for it.
    recipe: Reopen | None = None

    @abstractmethod
    def guest(self) -> Guest:
        """The facts, as far as the image states them. May be called more than once."""

    @abstractmethod
    def read_into(self, paddr: int, buffer: memoryview) -> None:
        """Fill all of ``buffer`` with guest memory from ``paddr`` on.

        The range lies within RAM (``guest().memory``). Bytes in :meth:`excluded` or :meth:`unreadable` are zero.

        Raises:
            ReadError: Something in the range cannot be read.
        """

    def read_runs(self, runs: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        """Fill ``buffer`` with many ranges, end to end, as :meth:`read_into` does with one.

        Override this if each read has a high fixed cost.

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
        """RAM that was left out on purpose (a filtered dump)."""
        return Ranges.empty()

    def unreadable(self) -> Ranges:
        """RAM that should be there and is not (an incomplete dump)."""
        return Ranges.empty()

    def more_lost(self) -> bool:
        """Whether more RAM is lost than :meth:`unreadable` has: the file does not state where all RAM is."""
        return False

    def defects(self) -> Iterator[str]:
        """One line for each fault in headers and notes that other readers fail on and this one does not."""
        return iter(())

    def describe(self) -> tuple[tuple[str, str], ...]:
        """``(label, value)`` lines about the image itself, for ``pydump info``."""
        return ()

    def warnings(self) -> tuple[str, ...]:
        """What the user should know, a line each: what is missing or odd in what was opened, and how reading went.

        What is missing or odd is known at once, and ``pydump verify`` counts it as a defect. How reading went is
        known when all has been read.
        """
        return ()

    def reopen(self) -> Reopen | None:
        """How another process opens the same memory.

        Returns:
            None where it cannot: memory of a live guest, or of this process; a file that came through a pipe or was
            unpacked.
        """
        return self.recipe

    def __reduce__(self) -> tuple[Any, ...]:
        """An image is pickled as its recipe, so that what works on it can be sent to another process.

        Raises:
            UnsupportedError: It has none.
        """
        recipe = self.reopen()
        if recipe is None:
            raise UnsupportedError("no other process can open this memory", hint="dump it to a file, and name that")
        return _open, (recipe,)

    def close(self) -> None:
        """Close files and connections. Reading afterwards is an error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _open(recipe: Reopen) -> MemoryImage:
    return recipe.open()


@runtime_checkable
class KnowsHoles(Protocol):
    """An image that can say which of its memory is zero without reading it (holes of a sparse file)."""

    def data_ranges(self, paddr: int, size: int) -> Iterator[tuple[int, int]]:
        """``(start, end)`` in paddr of what may hold data within the range, ascending; the rest is zero."""
        ...


@runtime_checkable
class ReadsHeads(Protocol):
    """An image of which a little of each page comes much sooner than all of it, such as through a slow connection."""

    def read_heads(self, pages: Sequence[int], size: int) -> bytes:
        """The first ``size`` bytes of each of ``pages``, end to end.

        Args:
            pages: paddr of each, ascending.
            size: Bytes.

        Raises:
            ReadError: Something of it cannot be read.
        """
        ...


@runtime_checkable
class KnowsVaddrs(Protocol):
    """An image that states virtual addresses of guest memory, as the PT_LOADs of /proc/vmcore do."""

    def mappings(self) -> NDArray[np.uint64]:
        """Rows of vaddr, paddr and size, shape (n, 3); none where there are no addresses beside the physical ones."""
        ...


@runtime_checkable
class KnowsAbsent(Protocol):
    """An image that says of a range what is absent there, where to know it of all memory takes long."""

    def absent(self, start: int, end: int) -> tuple[Ranges, Ranges]:
        """What of a range was excluded, and what is unreadable.

        Args:
            start: The first paddr.
            end: One past the last.
        """
        ...

    def absent_sizes(self) -> tuple[int, int | None]:
        """Bytes that were excluded, and bytes that are unreadable: None where it takes long to count those."""
        ...


def absent_in(image: MemoryImage, start: int, end: int) -> tuple[Ranges, Ranges]:
    """What of the range ``[start, end)`` in paddr an image excluded, and what is unreadable."""
    if isinstance(image, KnowsAbsent):
        return image.absent(start, end)
    return image.excluded().clip(start, end), image.unreadable().clip(start, end)


@runtime_checkable
class KnowsRegisters(Protocol):
    """An image without CPU notes whose registers are elsewhere, such as in guest memory behind its page tables."""

    def cpus(self, guest: Guest, arch: type[Arch]) -> tuple[Cpu, ...]:
        """The CPUs whose registers the image holds.

        Args:
            guest: Its completed facts.
            arch: Its architecture.
        """
        ...


class Place(NamedTuple):
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
    """An image that can say where in its file some memory is stored."""

    def place(self, paddr: int) -> Place | None:
        """Where the page of ``paddr`` is stored, or None where the file does not hold it."""
        ...


class StoredPages(NamedTuple):
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
    """An image whose pages are compressed one by one and can be copied as they are."""

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
    """An image that can check its own structure beyond what reading it checks."""

    def problems(self) -> Iterator[str]:
        """One line for each fault found in headers, tables and notes."""
        ...
