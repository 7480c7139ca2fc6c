"""Checks a dump: every structure, every descriptor, every page."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from pydump.engine.defects import defects
from pydump.engine.facts import complete
from pydump.engine.findings import Findings
from pydump.engine.scan import Piece, scan
from pydump.errors import FormatError, PlanError, ReadError
from pydump.interfaces.executor import Executor
from pydump.interfaces.image import MemoryImage, Verifiable
from pydump.model.findings import VerifyReport
from pydump.model.progress import ProgressCallback
from pydump.registry import Registry


def run_verify(
    source: MemoryImage,
    label: str,
    registry: Registry,
    *,
    arch: str | None = None,
    executor: Executor | None = None,
    progress: ProgressCallback | None = None,
) -> VerifyReport:
    """Read all of a dump back.

    Args:
        source: The dump.
        label: What the user called it.
        registry: What is installed.
        arch: An architecture's name, instead of what the dump says.
        executor: Whose workers read; default: as many local ones as there are CPUs.
        progress: Told how far the run is.
    """
    began = time.monotonic()
    guest, lost = source.guest(), source.unreadable()
    findings: Findings[str] = Findings()
    if arch is not None:
        registry.arch(arch)  # it must be there
    with suppress(PlanError):  # no plugin knows its architecture, and the file does not say enough to do without
        guest = complete(guest, arch, registry).guest
    n_defects = 0
    for n_defects, defect in enumerate((*source.warnings(), *defects(source, guest)), 1):  # noqa: B007
        findings.add(f"{label}: {defect}")
    if isinstance(source, Verifiable):
        for problem in source.problems():
            findings.add(problem)
    for start, end in lost:
        findings.add(f"paddr {start:#x}..{end:#x}: the dump says that it is lost")
    readable = guest.memory.ranges().subtract(source.excluded()).subtract(lost)
    task = _Readable(guest.page_size or 4096)
    for faults in scan(source, readable, task, executor=executor, phase="verify", progress=progress):
        for fault in faults:
            findings.add(fault)
    return VerifyReport(
        label,
        readable.size,
        findings.kept,
        findings.count,
        time.monotonic() - began,
        intact=findings.count == n_defects and bool(guest.memory),
    )


@dataclass(frozen=True, slots=True)
class _Readable:
    """Reads each piece; where that fails, says what is wrong with which page, a line each."""

    page_size: int

    def examine(self, piece: Piece) -> list[str]:
        if piece.hole:
            return []
        try:
            piece.read()
        except (ReadError, FormatError):
            return list(self._faults(piece))
        return []

    def _faults(self, piece: Piece) -> Iterator[str]:
        buffer = memoryview(bytearray(self.page_size))
        for start, end in piece.runs:
            first = start // self.page_size * self.page_size
            for page in range(first, end, self.page_size):
                at, stop = max(start, page), min(end, page + self.page_size)
                try:
                    piece.source.read_into(at, buffer[: stop - at])
                except (ReadError, FormatError) as error:
                    yield error.message
