"""Carries out a plan: source to sink, whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from pydump.builtin.descriptors import names_descriptor
from pydump.builtin.local import LocalExecutor
from pydump.builtin.storages import FileStorage
from pydump.engine import hashes
from pydump.engine.batches import BATCH_SIZE
from pydump.engine.exclude import ZERO
from pydump.engine.executors import refuse_live
from pydump.engine.live import Input, captured, is_live, view_of
from pydump.engine.locate import find_stored
from pydump.engine.narrow import Narrowing
from pydump.engine.outputs import Outputs, targets
from pydump.engine.pace import Pace
from pydump.engine.parts import Files
from pydump.engine.planner import Chosen, Planned, choose, make_plan, outline
from pydump.errors import UnsupportedError
from pydump.interfaces.executor import Executor, Outcome
from pydump.interfaces.image import MemoryImage
from pydump.interfaces.writer import Writer
from pydump.layout.windows import windows_of
from pydump.model.memory import MemoryMap
from pydump.model.progress import Milestone, ProgressCallback
from pydump.model.report import DumpReport
from pydump.model.request import DEFAULT_FORMAT, Algorithm, Request
from pydump.registry import Registry
from pydump.signals import put_off

#: What is said of a rate that did not count.
NOT_SLOWED: Final = "--max-rate had no effect: the guest was paused while its memory was read"

#: What is written of a guest that runs Windows where the output's name ends as that of a Windows dump.
WINDOWS_DUMP: Final = "win-dmp"
#: Endings of other files that hold guest memory.
MISLEADING: Final = frozenset({"dmp", "gz", "xz", "zst"})


def run_dump(
    opened: Input,
    label: str,
    target: str,
    request: Request,
    registry: Registry,
    *,
    executor: Executor | None = None,
    batch_size: int = BATCH_SIZE,
    progress: ProgressCallback | None = None,
    reached: Callable[[Milestone], None] | None = None,
) -> DumpReport:
    """Write what was opened to ``target``.

    Args:
        opened: What to read.
        label: What the user called it.
        target: Where to, as :class:`Outputs` takes it.
        request: What the user asks for. Its executor and workers are not looked at.
        registry: What is installed.
        executor: Whose workers read and encode; default: as many local ones as there are CPUs.
        batch_size: Bytes of guest memory that are encoded at once.
        progress: Told how far the run is.
        reached: Told what has been reached.

    Raises:
        PydumpError: It failed; nothing is left at the output.
    """
    request, told = _with_format(request, target, opened, registry)
    chosen = choose(request, registry)
    if request.flatten and not chosen.format.reads():
        raise UnsupportedError(
            f"nothing reads a flattened stream of {chosen.format.name}, which has no header", hint="leave --flatten out"
        )
    executor = executor or LocalExecutor()
    refuse_live(opened, executor)
    pace = Pace.of(request.max_rate, executor)
    run = _Run(label, target, chosen, registry, executor, batch_size, pace, told)
    return run.plan(opened) if request.dry_run else run.write(opened, progress, reached or (lambda _: None))


def _with_format(request: Request, target: str, opened: Input, registry: Registry) -> tuple[Request, tuple[str, ...]]:
    """``request`` with the format that the output's name ends with, unless the user names one; and remarks on it."""
    if request.format is not None or "." not in target:
        return request, ()
    ending = target.rpartition(".")[2].lower()
    word = WINDOWS_DUMP if ending == "dmp" and _runs_windows(opened) else ending
    known = registry.words("format")
    if word in known and registry.format(word).format.writes():
        return replace(request, format=word), ()
    if ending not in MISLEADING and ending not in known:
        return request, ()
    return request, (f"it is a {DEFAULT_FORMAT}, though its name ends with .{ending}; --format chooses another",)


def _runs_windows(opened: Input) -> bool:
    guest = view_of(opened).guest()
    return (guest.windows or windows_of(guest.notes)) is not None


@dataclass(frozen=True, slots=True)
class _Run:
    """A run, from what was opened to the output. The fields are the arguments of :func:`run_dump`."""

    label: str
    target: str
    chosen: Chosen
    registry: Registry
    executor: Executor
    batch_size: int
    pace: Pace | None
    told: tuple[str, ...]
    began: float = field(default_factory=time.monotonic)

    def plan(self, opened: Input) -> DumpReport:
        """Plan only. Of a live guest no memory is read."""
        image = view_of(opened)
        make = outline if is_live(opened) else partial(make_plan, executor=self.executor)
        planned = make(image, self.chosen, self.registry)
        files = self._files(image, planned)
        outputs = Outputs(self.target, self.chosen.request, self.registry)
        outputs.check(planned.writer.beside())  # what speaks against the output is said now
        flattened = outputs.flattens(files.writers)
        return self._report(planned, files, Outcome(0), files.size_limit, flattened=flattened, dry=True)

    def write(
        self, opened: Input, progress: ProgressCallback | None, reached: Callable[[Milestone], None]
    ) -> DumpReport:
        """Write. The output is open, and what cannot be done is refused, before a live guest is paused."""
        request, registry, executor = self.chosen.request, self.registry, self.executor
        algorithm: Algorithm | None = (request.hash or "sha256") if request.hash_memory else None
        with Outputs(self.target, request, registry) as outputs:
            outputs.open(partial(self._made_of, opened))
            narrowing = Narrowing(request, registry)
            narrow = narrowing if self.chosen.classes - {ZERO} else None
            with (capture := captured(opened, partial(self._wanted, outputs), progress, narrow)) as image:
                live, left_out = is_live(opened), narrowing.left_out
                planned = make_plan(image, self.chosen, registry, executor=executor, left_out=left_out, trusted=live)
                files = self._files(image, planned)
                flattened = outputs.flattens(files.writers)
                outputs.write_beside(planned.writer.beside())
                sinks = outputs.sinks(flatten=flattened)
                held = capture.holds
                if not held:
                    reached("captured")
                outcome = files.write(executor, sinks, progress, None if held else self.pace)
                memory_hash = _memory_hash(image, planned, algorithm, executor, progress)
            if held:
                reached("captured")
            sizes = files.finish(sinks)
            outputs.complete(sizes, progress)
            with put_off():
                outputs.commit()
                reached("written")
            outputs.read_back(progress)
        report = self._report(planned, files, outcome, sum(sizes), flattened=flattened)
        waited = self.pace is not None and held
        return replace(
            report,
            warnings=(*report.warnings, *image.warnings(), *((NOT_SLOWED,) if waited else ())),
            paused_seconds=capture.paused_seconds,
            consistent=capture.consistent,
            hash=request.hash or algorithm,
            hashes=outputs.digests,
            hashed=outputs.hashed,
            resumed_size=outputs.resumed_size,
            memory_hash=memory_hash,
        )

    def _made_of(self, opened: Input) -> Mapping[str, str]:
        """What decides the bytes of the output; nothing for memory that no other run could read again."""
        from pydump.engine.identity import decisive

        if isinstance(opened, MemoryImage) and (found := decisive(opened, self.chosen, self.target, self.batch_size)):
            return found
        if self.chosen.request.resume:
            raise UnsupportedError(f"{self.label} cannot be read again as it was", hint="leave --resume out")
        return {}

    def _wanted(self, outputs: Outputs, view: MemoryImage) -> MemoryMap:
        """What of a live guest's memory will be read. Small files beside the outputs are open when this is known."""
        planned = outline(view, self.chosen, self.registry)
        outputs.open_beside(planned.writer.beside())
        self._files(view, planned)  # a dump that cannot be split is refused
        return planned.plan.guest.memory

    def _files(self, image: MemoryImage, planned: Planned) -> Files:
        return Files(image, planned, self.chosen, self.chosen.request.split, self.batch_size)

    def _report(
        self, planned: Planned, files: Files, outcome: Outcome, size: int, *, flattened: bool, dry: bool = False
    ) -> DumpReport:
        count = self.executor.workers_for(files.n_pieces)
        split, target = self.chosen.request.split, self.target
        report = _report(
            planned, self.label, target, split, count, self.began, outcome, size, flattened=flattened, dry=dry
        )
        if split or names_descriptor(target) or find_stored(target, self.registry).storage != FileStorage:
            return report
        return replace(report, remarks=(*self.told, *planned.writer.remarks(target)))


def _memory_hash(
    image: MemoryImage,
    planned: Planned,
    algorithm: Algorithm | None,
    executor: Executor,
    progress: ProgressCallback | None,
) -> str | None:
    """The hash of the memory that the dump holds, or None where none is wanted."""
    if algorithm is None:
        return None
    page_size = planned.plan.guest.page_size or hashes.PAGE
    readable = planned.plan.readable()
    return hashes.hash_memory(image, readable, algorithm, page_size=page_size, executor=executor, progress=progress)


def _report(
    planned: Planned,
    label: str,
    target: str,
    split: int | None,
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
        output=target,
        parts=tuple(targets(target, split)) if split else (),
        format=plan.format,
        compression=plan.compression,
        producer=planned.compressor.producer if planned.compressor else "none",
        advice=planned.compressor.advice or None if planned.compressor else None,
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
        warnings=plan.warnings + _damaged(outcome, planned.writer) + _one_file(target, split),
        fixed=plan.fixed,
        excluded_classes=planned.exclusion.sizes,
        short_size=planned.exclusion.short_size,
        checks=planned.exclusion.checks,
        more_lost=plan.more_lost,
    )


def _one_file(target: str, split: int | None) -> tuple[str, ...]:
    """What is said of an output that looks like several."""
    if split or "," not in target:
        return ()
    return (f"{target} is one file, with a comma in its name; --split writes several",)


def _damaged(outcome: Outcome, writer: Writer) -> tuple[str, ...]:
    """What is said of pages that were found to be damaged."""
    if outcome.first_lost is None:
        return ()
    there = "the output says so of each" if writer.marks_lost else "they are zero in the output"
    first = f"{outcome.lost_size} bytes in pages of the source are damaged, the first at paddr {outcome.first_lost:#x}"
    return (f"{first}: {there}; pydump verify names all pages",)
