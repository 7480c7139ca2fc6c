"""What the other commands found in a dump. Apart from :mod:`pydump.model.report`: each costs start-up time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydump.model.check import Check


@dataclass(frozen=True, slots=True)
class LogNotice:
    """What happened to a kernel log that is followed.

    Attributes:
        kind: "overwritten", where records were overwritten by newer ones before they could be read; "reset", where the
            guest was reset and its log begins anew.
        count: How many records, or None where nobody knows.
    """

    kind: Literal["overwritten", "reset"]
    count: int | None = None


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a check of a file found.

    Attributes:
        path: The file.
        checked_size: Bytes of guest memory that were read back.
        faults: One line for each fault, the first hundred.
        n_faults: How many there were.
        seconds: How long it took.
        intact: Could all of its memory be read back? Then a dump of it fixes what is wrong.
        memory_hash: The SHA-256 of guest memory in hexadecimal, which does not depend on the format, or None where it
            was not asked for.
    """

    path: str
    checked_size: int
    faults: tuple[str, ...]
    n_faults: int
    seconds: float
    intact: bool = True
    memory_hash: str | None = None

    @property
    def ok(self) -> bool:
        """Was nothing wrong?"""
        return self.n_faults == 0


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference between two guests.

    Attributes:
        kind: "fact"; "note"; "vmcoreinfo"; "contents", where both hold a page with other bytes; "damaged", where
            pages of one or both cannot be read because their data is damaged; "held", where one dump
            alone holds memory; "ram", where one guest alone has RAM, and its dump leaves the contents out.
        name: Which fact or note, or None.
        paddr: Where the memory begins, or None.
        size: Bytes of the memory, or None.
        offset: The first byte that differs, counted from the start of the page or note, or None.
        left: The left side's value, or whether it has what ``kind`` says; None where ``offset`` says enough.
        right: Likewise of the right side.
    """

    kind: Literal["fact", "note", "vmcoreinfo", "contents", "damaged", "held", "ram"]
    name: str | None = None
    paddr: int | None = None
    size: int | None = None
    offset: int | None = None
    left: int | str | bool | None = None
    right: int | str | bool | None = None


@dataclass(frozen=True, slots=True)
class CompareReport:
    """Where two guests differ.

    Attributes:
        left: One file.
        right: The other.
        compared_size: Bytes of guest memory that both hold and that were compared.
        differences: The first hundred.
        n_differences: How many there were.
        seconds: How long it took.
        warnings: What is missing or odd in one of them, a line each.
    """

    left: str
    right: str
    compared_size: int
    differences: tuple[Difference, ...]
    n_differences: int
    seconds: float
    warnings: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Are they the same guest?"""
        return self.n_differences == 0


#: What a dump has of an address.
AddressState = Literal["present", "excluded", "unreadable", "not RAM", "beyond the end"]


@dataclass(frozen=True, slots=True)
class AddressReport:
    """What a dump knows of one address.

    Attributes:
        paddr: The guest-physical address, or None where the virtual one is not mapped.
        vaddr: The kernel's virtual address that was asked for, or None.
        state: What the dump has of it.
        zero: Is its page all zeros? None where the page is not there.
        classes: The classes of pages that its page is of, such as "free"; None where no filter knows the guest.
        path: The file that holds its page, or "".
        offset: Where in that file, or None.
        size: Bytes there.
        compression: What they are compressed with, or "none".
    """

    paddr: int | None
    vaddr: int | None
    state: AddressState | Literal["not mapped"]
    zero: bool | None = None
    classes: tuple[str, ...] | None = None
    path: str = ""
    offset: int | None = None
    size: int = 0
    compression: str = "none"


@dataclass(frozen=True, slots=True)
class LevelSize:
    """What a dump level would leave.

    Attributes:
        level: The level.
        classes: The classes of pages that it leaves out.
        pages: How many pages would be left.
        size: Bytes of them.
        packed_size: An estimate of their bytes when they are compressed, from a sample of each class.
    """

    level: int
    classes: tuple[str, ...]
    pages: int
    size: int
    packed_size: int


@dataclass(frozen=True, slots=True)
class SizeReport:
    """What each dump level would leave of a guest.

    Attributes:
        path: The file.
        ram_size: Bytes of guest RAM.
        page_size: Bytes of a page.
        levels: One for each level, 0 to 31.
        classes: Class name and bytes of each class of pages; a page can be in two.
        checks: What was checked; where one failed, a dump would leave nothing out.
        warnings: A line each.
        unreadable_size: Bytes of RAM that are lost. They are in no level.
        more_lost: Whether more is lost, and the file ends before it states how much.
    """

    path: str
    ram_size: int
    page_size: int
    levels: tuple[LevelSize, ...]
    classes: tuple[tuple[str, int], ...]
    checks: tuple[Check, ...] = ()
    warnings: tuple[str, ...] = ()
    unreadable_size: int = 0
    more_lost: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """A piece of the guest's physical address space, of one size for all cells of a map.

    Attributes:
        paddr: Where it begins.
        ram_size: Bytes of RAM in it.
        zero_size: Bytes in pages of zeros.
        data_size: Bytes in pages that hold anything else.
        excluded_size: Bytes that were left out of the dump.
        unreadable_size: Bytes that are lost.
        ratio: Compressed to uncompressed size of its data, from a sample; None where it has none.
        class_sizes: Class of pages and bytes of each in it, in a map by class; what is in no class comes last.
    """

    paddr: int
    ram_size: int
    zero_size: int
    data_size: int
    excluded_size: int
    unreadable_size: int
    ratio: float | None
    class_sizes: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class MapReport:
    """What guest memory is made of.

    Attributes:
        path: The file.
        arch: The architecture's name, or None.
        cell_size: Bytes of a cell, a power of two.
        blocks: ``(paddr, size)`` of each RAM block.
        cells: The cells that hold RAM, ascending.
        classes: The classes of pages that it shows; empty in a map of contents.
        warnings: What is missing or odd in the file, a line each.
        more_lost: Whether more is lost than the cells have, and the file ends before it states how much.
    """

    path: str
    arch: str | None
    cell_size: int
    blocks: tuple[tuple[int, int], ...]
    cells: tuple[Cell, ...]
    classes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    more_lost: bool = False

    def total(self, name: str) -> int:
        """The sum of a cell's attribute over all cells."""
        return sum(getattr(cell, name) for cell in self.cells)
