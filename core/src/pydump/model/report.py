"""What came of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        phase: What is being done: "dump", "verify", "compare".
        done: Bytes of guest memory done.
        total: Bytes of guest memory in all.
    """

    phase: str
    done: int
    total: int


#: Receives progress, at most some ten times a second and once at the end of each phase.
ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must hold before a page is left out.

    Attributes:
        name: What is checked, in a few words: "free pages".
        passed: Does it hold?
        detail: What was found, with its numbers.
    """

    name: str
    passed: bool
    detail: str


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


#: "captured": nothing of the run concerns a live guest any more, which runs again if it ran before.
#: "written": the output is complete, and there.
Milestone = Literal["captured", "written"]


@dataclass(frozen=True, slots=True)
class DumpReport:
    """A finished dump, or with ``dry_run`` what one would be.

    Attributes:
        source: What was read, as it was named.
        output: What was written, as it was named.
        format: The format's name.
        compression: The compressor's name, or "none".
        producer: The library that compressed, with its version.
        parts: The files of a split dump, as they were named; none for one file.
        hash: The algorithm of the hashes, such as "sha256"; empty where nothing was hashed.
        hashes: The hash of the output in hexadecimal, or of each part.
        hashed: How it was computed: "while writing", or by reading the output: "read back".
        memory_hash: The hash of guest memory in hexadecimal, which does not depend on the format.
        advice: What compresses faster, and how to get it; empty where nothing does.
        flattened: Was the output written as a flattened stream?
        arch: The architecture's name, or None where no plugin knows it.
        machine: ELF e_machine, or None where nobody said.
        byte_order: Of the file.
        elf_class: 32 or 64.
        page_size: Bytes.
        n_cpus: CPUs in the notes.
        has_vmcoreinfo: Is there a VMCOREINFO note?
        ram_size: Bytes of guest RAM that the dump covers.
        stored_size: Bytes of it whose contents are in the file.
        zero_size: Bytes of those that were found to be zero pages.
        taken_size: Bytes of those in pages that were copied as the source's file holds them, unread.
        excluded_size: Bytes left out by choice.
        unreadable_size: Bytes that could not be had.
        output_size: Bytes written (with ``dry_run``, at most).
        seconds: How long it took.
        workers: Processes that encoded.
        dry_run: Was nothing written?
        warnings: A line each.
        fixed: Defects of the source that the output corrects, a line each.
        excluded_classes: Class name and bytes of each class of pages that this dump left out.
        short_size: Bytes of those classes that are stored all the same, because the format has a header for each run.
        checks: What was checked before, each with whether it passed and what was found.
        paused_seconds: How long a live guest was paused, or None for a source that does not run.
        consistent: Whether all memory shows a single point in time. Only a running guest's may not.
        windows: Whether the guest runs Windows, which has no VMCOREINFO.
        remarks: How the output is read, where its name is not enough, and more of the kind, a line each.
    """

    source: str
    output: str
    format: str
    compression: str
    producer: str
    flattened: bool
    arch: str | None
    machine: int | None
    byte_order: str
    elf_class: int
    page_size: int
    n_cpus: int
    has_vmcoreinfo: bool
    ram_size: int
    stored_size: int
    zero_size: int
    taken_size: int
    excluded_size: int
    unreadable_size: int
    output_size: int
    seconds: float
    workers: int
    dry_run: bool
    warnings: tuple[str, ...]
    fixed: tuple[str, ...] = ()
    excluded_classes: tuple[tuple[str, int], ...] = ()
    short_size: int = 0
    checks: tuple[Check, ...] = ()
    paused_seconds: float | None = None
    consistent: bool = True
    advice: str = ""
    windows: bool = False
    parts: tuple[str, ...] = ()
    hash: str = ""
    hashes: tuple[str, ...] = ()
    hashed: Literal["", "while writing", "read back"] = ""
    memory_hash: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Is everything in it that the source should have held, and only that?"""
        return self.unreadable_size == 0 and self.filtered_as_asked

    @property
    def filtered_as_asked(self) -> bool:
        """Did the checks pass that must pass before pages are left out?"""
        return all(check.passed for check in self.checks)


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
        memory_hash: The SHA-256 of guest memory in hexadecimal, which does not depend on the format, where it was asked
            for.
    """

    path: str
    checked_size: int
    faults: tuple[str, ...]
    n_faults: int
    seconds: float
    intact: bool = True
    memory_hash: str = ""

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
    """

    path: str
    ram_size: int
    page_size: int
    levels: tuple[LevelSize, ...]
    classes: tuple[tuple[str, int], ...]
    checks: tuple[Check, ...] = ()
    warnings: tuple[str, ...] = ()


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
    """

    path: str
    arch: str | None
    cell_size: int
    blocks: tuple[tuple[int, int], ...]
    cells: tuple[Cell, ...]
    classes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def total(self, name: str) -> int:
        """The sum of a cell's attribute over all cells."""
        return sum(getattr(cell, name) for cell in self.cells)
