"""The Python API: :func:`dump`, :func:`open`, :func:`verify`, :func:`compare`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydump.builtin.local import LocalExecutor
from pydump.engine.dump import Dump
from pydump.engine.executors import open_executor, refuse_live
from pydump.engine.keywords import with_keywords_of
from pydump.engine.live import Input, captured
from pydump.engine.open import open_source
from pydump.engine.unused import refuse_options
from pydump.errors import PlanError
from pydump.model.progress import Milestone, ProgressCallback
from pydump.model.request import Request
from pydump.registry import installed

if TYPE_CHECKING:
    from pydump.interfaces.executor import Executor
    from pydump.kernel.log import Record
    from pydump.model.findings import CompareReport, LogNotice, MapReport, SizeReport, VerifyReport
    from pydump.model.report import DumpReport

#: Options by plugin name, then by field: ``{"zlib": {"level": 6}}``.
Options = Mapping[str, Mapping[str, Any]]
#: What names a file; of a source also ``raw:PATH@PADDR``, of an output also ``-``.
Path = str | os.PathLike[str]


def open(source: Path | Input, *, arch: str | None = None, options: Options | None = None) -> Dump:
    """Open a vmcore, or anything else that ``pydump dump`` takes as its source.

    Args:
        source: A path, paths separated by commas, ``raw:PATH@PADDR``, or a MemoryImage or LiveGuest.
        arch: An architecture's name, which overrides what the source says.
        options: Options of the plugin that reads it: ``{"qmp": {"access": "memory"}}``.

    Raises:
        PydumpError: It cannot be opened.
    """
    return Dump(_opened(source, options), installed(), arch=arch)


def _opened(source: Path | Input, options: Options | None, *, shared: bool = False) -> Input:
    if isinstance(source, str | os.PathLike):
        return open_source(os.fspath(source), installed(), options, shared=shared)
    if options:
        raise PlanError("the source is open, and options for it come too late")
    return source


def _label(source: Path | Input) -> str:
    """What reports call a source."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else type(source).__name__


@contextlib.contextmanager
def _captured(
    source: Path | Input,
    executor: Executor,
    *,
    arch: str | None = None,
    options: Options | None = None,
    shared: bool = False,
    progress: ProgressCallback | None = None,
) -> Iterator[Dump]:
    """A vmcore that workers can read: a live guest is captured first, as its monitor serves one process."""
    with _opened(source, options, shared=shared) as opened:
        refuse_live(opened, executor)
        with captured(opened, lambda view: view.guest().memory, progress) as image:
            yield Dump(image, installed(), arch=arch)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call(Request):
    """The keywords of :func:`dump`: a request, and what is called while it is carried out."""

    progress: ProgressCallback | None = None
    reached: Callable[[Milestone], None] | None = None


@with_keywords_of(_Call)
def dump(source: Path | Input, output: Path, call: _Call) -> DumpReport:  # noqa: D417  (call is its fields)
    """Write a vmcore.

    Args:
        source: A path, paths separated by commas, ``raw:PATH@PADDR``, or a MemoryImage or LiveGuest.
        output: A path, or ``-`` for standard output.
        {keywords}
        options: Plugin options: ``{{"zlib": {{"level": 6}}}}``.
        progress: Told how far the run is.
        reached: Told what has been reached.

    Raises:
        PydumpError: It failed; nothing is left at the output.
    """
    from pydump.engine.run import run_dump

    registry = installed()
    named = isinstance(source, str | os.PathLike)
    if not named:
        refuse_options(call.options, "source", registry.sources(), "the source is open already")
    opened = _opened(source, call.options if named else None)
    try:
        with open_executor(call.executor, call.workers, registry, call.options) as running:
            return run_dump(
                opened,
                _label(source),
                os.fspath(output),
                call,
                registry,
                executor=running,
                progress=call.progress,
                reached=call.reached,
            )
    finally:
        if named:
            opened.close()


def verify(
    path: Path,
    *,
    arch: str | None = None,
    options: Options | None = None,
    hash_memory: bool = False,
    workers: int | None = None,
    executor: str | None = None,
    progress: ProgressCallback | None = None,
) -> VerifyReport:
    """Check every structure and every page of a vmcore.

    Args:
        path: The file, or the parts of one separated by commas.
        arch: An architecture's name, which overrides what the source says.
        options: Options of the plugin that reads it.
        hash_memory: Hash guest memory with SHA-256, as :func:`dump` does.
        workers: Processes that read; default: the CPUs this process may use.
        executor: Which executor's workers read, as ``NAME[:ARGUMENT]``; default: local ones.
        progress: Told how far the run is.

    Raises:
        PydumpError: The file cannot be opened at all.
    """
    from pydump.engine.verify import run_verify

    with (
        open_executor(executor, workers, installed(), options) as running,
        _captured(path, running, arch=arch, options=options, progress=progress) as opened,
    ):
        report = run_verify(opened.image, os.fspath(path), installed(), arch=arch, executor=running, progress=progress)
        if not hash_memory:
            return report
        from pydump.engine import hashes

        image, guest = opened.image, opened.known
        held = guest.memory.ranges().subtract(image.excluded()).subtract(image.unreadable())
        page_size = guest.page_size or hashes.PAGE
        digest = hashes.hash_memory(image, held, "sha256", page_size=page_size, executor=running, progress=progress)
        return replace(report, memory_hash=digest)


def survey(
    source: Path | Input,
    *,
    arch: str | None = None,
    options: Options | None = None,
    max_cells: int = 4096,
    by_class: bool = False,
    workers: int | None = None,
    executor: str | None = None,
    progress: ProgressCallback | None = None,
) -> MapReport:
    """What guest memory is made of, cell by cell: zeros, data and how well it compresses, what was left out.

    Args:
        source: As for :func:`open`.
        arch: An architecture's name, for sources that say none.
        options: Options of the plugin that reads it.
        max_cells: The map has at most so many cells.
        by_class: Sort pages into classes, such as free and cache, as filters know them.
        workers: Processes that look; default: the CPUs this process may use.
        executor: Which executor's workers look, as ``NAME[:ARGUMENT]``; default: local ones.
        progress: Told how far the run is.

    Raises:
        PydumpError: It cannot be opened or read.
    """
    from pydump.engine.survey import run_survey

    with (
        open_executor(executor, workers, installed(), options) as running,
        _captured(source, running, arch=arch, options=options, progress=progress) as opened,
    ):
        guest = opened.known
        label = _label(source)
        classes = opened.classes() if by_class else None
        report = run_survey(opened.image, label, guest, max_cells, classes=classes, executor=running, progress=progress)
        return replace(report, warnings=opened.image.warnings())


def compare(
    left: Path,
    right: Path,
    *,
    arch: str | None = None,
    options: Options | None = None,
    ignore_excluded: bool = False,
    workers: int | None = None,
    executor: str | None = None,
    progress: ProgressCallback | None = None,
) -> CompareReport:
    """Compare two vmcores: are they the same guest memory and notes?

    Args:
        left: One vmcore.
        right: The other.
        arch: An architecture's name, for sources that say none.
        options: Options of the plugins that read them. Each takes its own.
        ignore_excluded: Do not count what one of them left out by choice: is a filtered dump else the same?
        workers: Processes that compare; default: the CPUs this process may use.
        executor: Which executor's workers compare, as ``NAME[:ARGUMENT]``; default: local ones.
        progress: Told how far the run is.

    Raises:
        PydumpError: One of them cannot be opened or read.
    """
    from pydump.engine.compare import run_compare

    with (
        open_executor(executor, workers, installed(), options) as running,
        _captured(left, running, options=options, shared=True, progress=progress) as a,
        _captured(right, running, options=options, shared=True, progress=progress) as b,
    ):
        report = run_compare(
            a.image,
            b.image,
            (os.fspath(left), os.fspath(right)),
            installed(),
            arch=arch,
            ignore_excluded=ignore_excluded,
            executor=running,
            progress=progress,
        )
        sides = ((os.fspath(left), a), (os.fspath(right), b))
        warnings = (f"{path}: {line}" for path, side in sides for line in side.image.warnings())
        return replace(report, warnings=(*report.warnings, *warnings))


def follow(
    source: Path, *, arch: str | None = None, options: Options | None = None
) -> Generator[Record | LogNotice, None, None]:
    """The kernel log of a guest that runs: its records, the oldest first, and then new ones as they appear.

    It does not end by itself; close the iterator. The guest is not paused, and has no other client at this monitor.

    Args:
        source: As for :func:`open`; a guest that runs, such as ``qmp:SOCKET``.
        arch: An architecture's name, which overrides what the source says.
        options: Plugin options, as for :func:`open`.

    Raises:
        PydumpError: It is not a guest that runs, its memory cannot be read meanwhile, or it is gone.
    """
    from pydump.engine.follow import follow as follow_log

    return follow_log(os.fspath(source), installed(), arch=arch, options=options)


def sizes(source: Path | Input, *, arch: str | None = None, options: Options | None = None) -> SizeReport:
    """What each dump level would leave of a guest: pages, bytes, and an estimate of their compressed size.

    A guest that does not say what its pages are has levels 0 and 1 only, as a warning says.

    Args:
        source: As for :func:`open`.
        arch: An architecture's name, for sources that say none.
        options: Options of the plugin that reads it.

    Raises:
        PydumpError: It cannot be opened or read.
    """
    from pydump.engine.sizes import run_sizes

    registry = installed()
    label = _label(source)
    with _captured(source, LocalExecutor(), arch=arch, options=options) as opened:
        guest, known, _ = opened._searched()
        return run_sizes(opened.image, label, guest, known, registry)
