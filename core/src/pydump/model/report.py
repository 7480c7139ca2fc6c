"""What came of a dump."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydump.model.check import Check


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
        hash: The algorithm of the hashes, such as "sha256", or None where nothing was hashed.
        hashes: The hash of the output in hexadecimal, or of each part.
        hashed: How it was computed: "while writing", or by reading the output: "read back"; or None.
        memory_hash: The hash of guest memory in hexadecimal, which does not depend on the format, or None where it was
            not asked for.
        advice: What compresses faster, and how to get it, or None where nothing does.
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
        more_lost: Whether more is lost, and the source ends before it states how much.
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
        resumed_size: Bytes of the output that an interrupted run had stored, and that were not stored again.
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
    advice: str | None = None
    windows: bool = False
    parts: tuple[str, ...] = ()
    hash: str | None = None
    hashes: tuple[str, ...] = ()
    hashed: Literal["while writing", "read back"] | None = None
    memory_hash: str | None = None
    remarks: tuple[str, ...] = ()
    resumed_size: int = 0
    more_lost: bool = False

    @property
    def complete(self) -> bool:
        """Is everything in it that the source should have held, and only that?"""
        return self.unreadable_size == 0 and not self.more_lost and self.filtered_as_asked

    @property
    def filtered_as_asked(self) -> bool:
        """Did the checks pass that must pass before pages are left out?"""
        return all(check.passed for check in self.checks)
