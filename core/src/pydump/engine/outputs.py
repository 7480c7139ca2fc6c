"""Where a dump goes: one output, or those of a split dump, of which all appear or none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pydump.builtin.flattened import FlattenedSink
from pydump.engine.locate import find_stored
from pydump.engine.request import Request
from pydump.engine.unused import refuse_options
from pydump.errors import PlanError, PydumpError
from pydump.interfaces.sink import Placement, Sink
from pydump.interfaces.writer import Writer
from pydump.options import chosen_options
from pydump.registry import Registry


@dataclass(frozen=True, slots=True)
class Output:
    """Where a dump goes.

    Attributes:
        target: A path, ``-`` for standard output, or a URL: ``<storage name>:…``. Of a split dump all of these: see
            :func:`targets`.
        flatten: Write a flattened stream even where the output can seek.
        force: Replace what is there.
        sync: Wait until the data is on the disk.
        split: The number of files over which the dump is split, or None for one file.
    """

    target: str
    flatten: bool = False
    force: bool = False
    sync: bool = True
    split: int | None = None


class Outputs:
    """The outputs of a dump. Use it as a context manager: they are aborted unless they are committed.

    Args:
        output: What the user asks for.
        request: Holds the options of storages.
        registry: What is installed.

    Raises:
        PlanError: The outputs are not as many as the files, or an option is of a storage that is not used.
        UnknownPluginError: No storage has the name.

    Attributes:
        names: What the user called each.
    """

    def __init__(self, output: Output, request: Request, registry: Registry) -> None:
        self._output = output
        self.names = targets(output.target, output.split)
        stored = [find_stored(name, registry) for name in self.names]
        used = {one.storage for one in stored}
        unused = (cls for cls in registry.storages() if cls not in used)
        refuse_options(request.options, "storage", unused, f"the output is {output.target}")
        self._opened = [(one, chosen_options(one.storage.name, one.storage.Options, request.options)) for one in stored]
        self._placements: list[Placement] = []
        self._sinks: list[Sink] = []
        self._committed = False

    def check(self) -> None:
        """Refuse what cannot be written, and leave no trace.

        Raises:
            PydumpError: As :meth:`open` does.
        """
        force = self._output.force
        self._placements = [one.storage.check(one.url, options, force=force) for one, options in self._opened]

    def open(self) -> None:
        """Open all of them for writing.

        Raises:
            PlanError: One cannot be written as asked.
            SinkError: One cannot be opened.
        """
        force, sync = self._output.force, self._output.sync
        for one, options in self._opened:
            self._sinks.append(one.storage.writer(one.url, options, force=force, sync=sync))
        self._placements = [sink.placement for sink in self._sinks]

    def flattens(self, writers: Sequence[Writer]) -> bool:
        """Whether flattened streams are written: where it is asked for, or an output cannot seek."""
        pairs = zip(self._placements, writers, strict=True)
        cannot_seek = any(place == "ascending" and not writer.sequential for place, writer in pairs)
        return self._output.flatten or cannot_seek

    def sinks(self, *, flatten: bool) -> list[Sink]:
        """What extents go to: the outputs, or flattened streams into them."""
        if flatten:
            self._sinks = [FlattenedSink(sink) for sink in self._sinks]
        return self._sinks

    def commit(self, sizes: Sequence[int]) -> None:
        """Make all outputs appear, or none; each is so many bytes long.

        What takes long or is likely to fail is done for all of them before the first appears.

        Raises:
            SinkError: One cannot be completed. Those that had appeared are removed.
        """
        done: list[Sink] = []
        try:
            for sink, size in zip(self._sinks, sizes, strict=True):
                sink.prepare(size)
            for sink, size in zip(self._sinks, sizes, strict=True):
                sink.commit(size)
                done.append(sink)
        except PydumpError:
            for sink in done:
                sink.retract()
            raise
        self._committed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._committed:
            for sink in self._sinks:
                sink.abort()


def targets(target: str, n: int | None) -> list[str]:
    """The output of each file.

    Args:
        target: With ``%d`` for the number of each file, counted from 0, or the outputs separated by commas. Of a dump
            that is not split, the output.
        n: The number of files, or None for a dump that is not split.

    Raises:
        PlanError: There are not so many outputs, or two are the same.
    """
    if n is None:
        return [target]
    if n < 2:
        raise PlanError(f"--split must be at least 2, not {n}")
    named = [target.replace("%d", str(i)) for i in range(n)] if target.count("%d") == 1 else target.split(",")
    if len(named) != n:
        raise PlanError(
            f"--split {n} needs {n} outputs, and {target} names {len(named)}",
            hint="write vmcore.%d, or name each: vmcore.0,vmcore.1",
        )
    if len({os.path.realpath(name) for name in named}) < n:
        raise PlanError(f"two of the outputs are the same: {target}", hint="name each once")
    return named
