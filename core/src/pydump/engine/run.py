"""Carries out a plan: source to sink, whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

from pydump.builtin.flattened import FlattenedSink
from pydump.builtin.local import LocalExecutor
from pydump.engine.batches import BATCH_SIZE, Batches
from pydump.engine.encoding import job_of
from pydump.engine.exclude import ZERO
from pydump.engine.locate import Stored, find_stored
from pydump.engine.narrow import Narrowing
from pydump.engine.planner import Planned, choose, make_plan, outline
from pydump.engine.request import Request
from pydump.engine.salvage import SalvagingBatches
from pydump.engine.unused import refuse_options
from pydump.interfaces.executor import Outcome
from pydump.interfaces.image import MemoryImage
from pydump.interfaces.live import Live
from pydump.interfaces.sink import Placement, Sink
from pydump.interfaces.writer import Writer
from pydump.model.report import DumpReport, Milestone, Progress, ProgressCallback
from pydump.options import chosen_options
from pydump.registry import Registry
from pydump.signals import put_off


@dataclass(frozen=True, slots=True)
class Output:
    """Where a dump goes.

    Attributes:
        target: A path, ``-`` for standard output, or a URL: ``<storage name>:…``.
        flatten: Write a flattened stream even where the output can seek.
        force: Replace what is there.
        sync: Wait until the data is on the disk.
    """

    target: str
    flatten: bool = False
    force: bool = False
    sync: bool = True


def run_dump(
    source: MemoryImage,
    label: str,
    output: Output,
    request: Request,
    registry: Registry,
    *,
    workers: int | None = None,
    batch_size: int = BATCH_SIZE,
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
    reached: Callable[[Milestone], None] | None = None,
) -> DumpReport:
    """Write ``source`` to ``output``.

    Args:
        source: What to read.
        label: What the user called it.
        output: Where to.
        request: In which form.
        registry: What is installed.
        workers: Processes that encode; default: the CPUs this process may use, and no more than there is work for.
        batch_size: Bytes of guest memory that are encoded at once.
        dry_run: Plan only.
        progress: Told how far the run is.
        reached: Told what has been reached.

    Raises:
        PydumpError: It failed; nothing is left at the output.
    """
    began = time.monotonic()
    chosen = choose(request, registry)
    executor = LocalExecutor(workers)
    live = isinstance(source, Live)
    if dry_run:
        planned = outline(source, chosen, registry) if live else make_plan(source, chosen, registry, workers=workers)
        batches = Batches.of(source, planned.plan.readable(), planned.writer, batch_size)
        count = executor.workers_for(batches.n_batches)
        outcome = Outcome(planned.writer.start)
        placement = _check(output, request, registry)  # what speaks against the output is said now
        flattened = _flattens(placement, planned.writer, output)
        size = planned.writer.size_limit
        return _report(planned, label, output, count, began, outcome, size, flattened=flattened, dry=True)
    with _Opened(_open(output, request, registry)) as opened:
        narrowing = Narrowing(request, registry)
        if isinstance(source, Live):
            wanted = outline(source, chosen, registry).plan.guest.memory
            source.capture(wanted, progress, narrowing if request.exclude - {ZERO} else None)
        planned = make_plan(source, chosen, registry, workers=workers, left_out=narrowing.left_out, trusted=live)
        writer = planned.writer
        batches = SalvagingBatches.of(source, planned.plan.readable(), writer, batch_size)
        batches.page_size = planned.plan.guest.page_size or batches.page_size
        count = executor.workers_for(batches.n_batches)
        sink = opened.sink_for(writer, output)

        def tell(done: int) -> None:
            if progress is not None:
                progress(Progress("dump", done, batches.total))

        held = isinstance(source, Live) and source.holds
        if reached is not None and not held:
            reached("captured")
        outcome = executor.run(job_of(batches, writer, sink, tell))
        if isinstance(source, Live):
            source.release()
        if reached is not None and held:
            reached("captured")
        writer.lost_size = outcome.lost_size
        for extent in writer.finish(outcome.end):
            sink.write(extent)
        size = writer.size(outcome.end)
        with put_off():
            opened.commit(size)
            if reached is not None:
                reached("written")
    report = _report(planned, label, output, count, began, outcome, size, flattened=opened.flattened)
    if isinstance(source, Live):
        report = replace(report, paused_seconds=source.paused_seconds, consistent=source.consistent)
    return replace(report, warnings=(*report.warnings, *source.warnings()))


class _Opened:
    """An output that is aborted unless it is committed."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._committed = False
        self.flattened = False

    def sink_for(self, writer: Writer, output: Output) -> Sink:
        """What ``writer``'s extents go to: the output, or a flattened stream into it where it cannot seek."""
        if _flattens(self._sink.placement, writer, output):
            self.flattened = True
            self._sink = FlattenedSink(self._sink)
        return self._sink

    def commit(self, size: int) -> None:
        """Make the output appear."""
        self._sink.commit(size)
        self._committed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._committed:
            self._sink.abort()


def _flattens(placement: Placement, writer: Writer, output: Output) -> bool:
    return output.flatten or (placement == "ascending" and not writer.sequential)


def _target(output: Output, request: Request, registry: Registry) -> tuple[Stored, Any]:
    """Where the output is, and the options of that storage.

    Raises:
        PlanError: It cannot be written as asked, or an option is of a storage that is not used.
    """
    target = find_stored(output.target, registry)
    unused = (cls for cls in registry.storages() if cls is not target.storage)
    refuse_options(request.options, "storage", unused, f"the output is {output.target}")
    return target, chosen_options(target.storage.name, target.storage.Options, request.options)


def _open(output: Output, request: Request, registry: Registry) -> Sink:
    """The output, opened for writing.

    Raises:
        PlanError: It cannot be written as asked.
        SinkError: It cannot be opened.
    """
    target, options = _target(output, request, registry)
    return target.storage.writer(target.url, options, force=output.force, sync=output.sync)


def _check(output: Output, request: Request, registry: Registry) -> Placement:
    """Where the output takes extents, if it can be written; the errors are those of :func:`_open`."""
    target, options = _target(output, request, registry)
    return target.storage.check(target.url, options, force=output.force)


def _report(
    planned: Planned,
    label: str,
    output: Output,
    workers: int,
    began: float,
    outcome: Outcome,
    size: int,
    *,
    flattened: bool = False,
    dry: bool = False,
) -> DumpReport:
    plan, guest = planned.plan, planned.plan.guest
    return DumpReport(
        source=label,
        output=output.target,
        format=plan.format,
        compression=plan.compression,
        producer=planned.compressor.producer if planned.compressor else "none",
        advice=planned.compressor.advice if planned.compressor else "",
        flattened=flattened,
        arch=guest.arch,
        machine=guest.machine,
        byte_order=guest.byte_order or "",
        elf_class=guest.elf_class or 0,
        page_size=guest.page_size or 0,
        n_cpus=guest.n_cpus or 0,
        has_vmcoreinfo=guest.vmcoreinfo is not None,
        windows=guest.windows is not None,
        ram_size=guest.memory.size,
        stored_size=plan.readable().size - outcome.lost_size,
        zero_size=outcome.zero_size,
        taken_size=outcome.taken_size,
        excluded_size=plan.excluded.size,
        unreadable_size=plan.unreadable.size + outcome.lost_size,
        output_size=size,
        seconds=time.monotonic() - began,
        workers=workers,
        dry_run=dry,
        warnings=plan.warnings + _damaged(outcome, planned.writer),
        fixed=plan.fixed,
        excluded_classes=planned.exclusion.sizes,
        checks=planned.exclusion.checks,
    )


def _damaged(outcome: Outcome, writer: Writer) -> tuple[str, ...]:
    """What is said of pages that were found to be damaged."""
    if outcome.first_lost is None:
        return ()
    there = "the output says so of each" if writer.marks_lost else "they are zero in the output"
    first = f"{outcome.lost_size} bytes in pages of the source are damaged, the first at paddr {outcome.first_lost:#x}"
    return (f"{first}: {there}; pydump verify names all pages",)
