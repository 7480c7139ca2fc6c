"""Checks a dump: every structure, every descriptor, every page.

A check is a dump like any other, whose writer keeps nothing but the faults that reading met.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from pydump.engine.batches import Batches, Spec
from pydump.engine.executors import Job, executor_for
from pydump.engine.findings import Findings, FindingsWriter
from pydump.engine.flaws import flaws
from pydump.engine.planner import settle
from pydump.errors import FormatError, PlanError, ReadError
from pydump.interfaces.format import Batch
from pydump.interfaces.source import Source, Verifiable
from pydump.model.memory import Ranges
from pydump.model.report import Progress, ProgressCallback, VerifyReport
from pydump.registry import Registry


def run_verify(
    source: Source,
    label: str,
    registry: Registry,
    *,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> VerifyReport:
    """Read all of a dump back.

    Args:
        source: The dump.
        label: What the user called it.
        registry: What is installed.
        workers: Processes that read; default: the CPUs this process may use.
        progress: Told how far the run is.
    """
    began = time.monotonic()
    guest, lost = source.guest(), source.unreadable()
    findings = Findings()
    with suppress(PlanError):  # no plugin knows its architecture, and the file does not say enough to do without
        guest, _, _ = settle(guest, None, registry)
    n_flaws = 0
    for n_flaws, flaw in enumerate((*source.warnings(), *flaws(source, guest)), 1):  # noqa: B007
        findings.add(f"{label}: {flaw}")
    if isinstance(source, Verifiable):
        for problem in source.problems():
            findings.add(problem)
    for start, end in lost:
        findings.add(f"paddr {start:#x}..{end:#x}: the dump says that it is lost")
    readable = guest.memory.ranges().subtract(source.excluded()).subtract(lost)
    writer = _Faults(readable)
    batches = _CheckedBatches(source, readable, writer, guest.page_size or 4096)

    def tell(done: int) -> None:
        if progress is not None:
            progress(Progress("verify", done, batches.total))

    executor_for(workers, batches).run(Job(batches, writer, findings, tell))
    return VerifyReport(
        label,
        readable.size,
        findings.lines,
        findings.count,
        time.monotonic() - began,
        intact=findings.count == n_flaws,
    )


@dataclass(frozen=True, slots=True)
class _CheckedBatch(Batch):
    """A batch, and what was wrong with reading it."""

    faults: tuple[str, ...] = ()


class _CheckedBatches(Batches):
    """Batches that name the pages which cannot be read, rather than stop at the first."""

    def __init__(self, source: Source, readable: Ranges, writer: FindingsWriter, page_size: int) -> None:
        super().__init__(source, readable, writer)
        self._page_size = page_size

    def load(self, spec: Spec, buffer: memoryview) -> Batch:
        try:
            batch = super().load(spec, buffer)
        except (ReadError, FormatError):
            return _CheckedBatch(spec.position, spec.size, None, faults=tuple(self._faults(spec, buffer)))
        return _CheckedBatch(batch.position, batch.size, None)

    def _faults(self, spec: Spec, buffer: memoryview) -> Iterator[str]:
        for start, end in spec.runs:
            for at in range(start, end, self._page_size):
                try:
                    self._source.read_into(at, buffer[: min(self._page_size, end - at)])
                except (ReadError, FormatError) as error:
                    yield error.message


class _Faults(FindingsWriter):
    """Keeps what was wrong."""

    def findings(self, batch: Batch) -> Iterator[str]:
        assert isinstance(batch, _CheckedBatch)
        yield from batch.faults
