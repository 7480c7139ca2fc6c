"""Where a dump goes: one output, or those of a split dump, of which all appear or none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Self

from pydump.builtin.flattened import FlattenedSink
from pydump.builtin.storages import DescriptorStorage, FileStorage
from pydump.engine.hashes import HashingSink, hash_backing, sum_line
from pydump.engine.locate import Stored, find_stored
from pydump.engine.unused import refuse_options
from pydump.errors import PlanError, PydumpError
from pydump.interfaces.backing import Backing
from pydump.interfaces.sink import Extent, Placement, Sink
from pydump.interfaces.writer import Writer
from pydump.model.progress import Progress, ProgressCallback
from pydump.model.request import Request
from pydump.options import chosen_options
from pydump.plugins import returned
from pydump.registry import Registry


class Outputs:
    """The outputs of a dump. Use it as a context manager: they are aborted unless they are committed.

    Args:
        target: A path, ``-`` for standard output, or a URL: ``<storage name>:…``. Of a split dump all of these: see
            :func:`targets`.
        request: What the user asks for.
        registry: What is installed.

    Raises:
        PlanError: The outputs are not as many as the files, or an option is of a storage that is not used.
        UnknownPluginError: No storage has the name.

    Attributes:
        names: What the user called each.
        digests: The hash of each, once they are complete, where the user wants it.
        hashed: How the hashes were computed: "while writing" or by reading it "back"; empty where there are none.
    """

    def __init__(self, target: str, request: Request, registry: Registry) -> None:
        self._request = request
        self.names = targets(target, request.split)
        stored = [find_stored(name, registry) for name in self.names]
        used = {one.storage for one in stored}
        unused = (cls for cls in registry.storages() if cls not in used)
        refuse_options(request.options, "storage", unused, f"the output is {target}")
        self._opened = [(one, chosen_options(one.storage.name, one.storage.Options, request.options)) for one in stored]
        self._placements: list[Placement] = []
        self._sinks: list[Sink] = []
        #: The sinks as storages gave them, without what hashes or flattens on the way.
        self._stores: list[Sink] = []
        self._sizes: list[int] = []
        #: By the number of the output, the file beside it that states its hash.
        self._sums: dict[int, Sink] = {}
        self._hashing: list[HashingSink] = []
        #: Small files beside the first output, by what stands after its name, and their sizes.
        self._beside: dict[str, Sink] = {}
        self._sizes_beside: dict[str, int] = {}
        self._committed = False
        self.digests: tuple[str, ...] = ()
        self.hashed: Literal["while writing", "read back"] | None = None

    def check(self, beside: Iterable[str] = ()) -> None:
        """Refuse what cannot be written, and leave no trace.

        Args:
            beside: What stands after the output's name in the names of small files beside it.

        Raises:
            PydumpError: As :meth:`open` and :meth:`open_beside` do.
        """
        force = self._request.force
        self._placements = [one.storage.check(one.url, options, force=force) for one, options in self._opened]
        for i, (one, options) in enumerate(self._opened):
            if self._has_sum(i):
                one.storage.check(f"{one.url}.{self._request.hash}", options, force=force)
        for suffix in beside:
            stored, options = self._beside_first(suffix)
            stored.storage.check(stored.url, options, force=force)

    def open(self, made_of: Callable[[], Mapping[str, str]]) -> None:
        """Open all of them for writing.

        Args:
            made_of: Gives what decides the bytes of the outputs, for storages that can continue an interrupted dump;
                see :meth:`pydump.interfaces.storage.Storage.resumable`. Nothing where another run may give others.

        Raises:
            PlanError: One cannot be written as asked.
            SinkError: One cannot be opened.
        """
        force, sync, resume = self._request.force, self._request.sync, self._request.resume
        resumes = resume or any(one.storage.resumes() for one, _ in self._opened)
        decides = made_of() if resumes else {}
        for one, options in self._opened:
            if resume or (decides and one.storage.resumes()):
                sink = one.storage.resumable(one.url, decides, options, resume=resume, force=force, sync=sync)
            else:
                sink = one.storage.writer(one.url, options, force=force, sync=sync)
            self._sinks.append(returned(sink, Sink, one.storage.writer))
        self._stores = [*self._sinks]
        self._placements = [sink.placement for sink in self._sinks]
        for i, (one, options) in enumerate(self._opened):
            if self._has_sum(i):
                url = f"{one.url}.{self._request.hash}"
                self._sums[i] = one.storage.writer(url, options, force=force, sync=sync)

    def _has_sum(self, i: int) -> bool:
        """Whether a file beside an output states its hash: a pipe has nothing beside it."""
        flows = self._placements[i] == "ascending"
        storage = self._opened[i][0].storage
        return self._request.hash is not None and not (flows and issubclass(storage, FileStorage | DescriptorStorage))

    def open_beside(self, suffixes: Iterable[str]) -> None:
        """Open small files beside the first output, unless they are open.

        Args:
            suffixes: What stands after the output's name in theirs.

        Raises:
            PlanError: The output is not a file, or one of them exists.
            SinkError: One cannot be opened.
        """
        force, sync = self._request.force, self._request.sync
        for suffix in suffixes:
            if suffix not in self._beside:
                one, options = self._beside_first(suffix)
                self._beside[suffix] = one.storage.writer(one.url, options, force=force, sync=sync)

    def write_beside(self, files: Mapping[str, bytes]) -> None:
        """Write the small files, which appear with the output.

        Args:
            files: What stands after the output's name in theirs, and their content.

        Raises:
            PydumpError: As :meth:`open_beside` does; or SinkError, where one cannot be written.
        """
        self.open_beside(files)
        for suffix, data in files.items():
            self._beside[suffix].write(Extent(0, data))
            self._sizes_beside[suffix] = len(data)

    def _beside_first(self, suffix: str) -> tuple[Stored, Any]:
        one, options = self._opened[0]
        if self._placements[0] == "ascending":
            raise PlanError(f"a {suffix} file goes beside the output, which is a pipe", hint="write to a file")
        return Stored(one.storage, one.url + suffix), options

    def flattens(self, writers: Sequence[Writer]) -> bool:
        """Whether flattened streams are written: where it is asked for, or an output cannot seek."""
        pairs = zip(self._placements, writers, strict=True)
        cannot_seek = any(place == "ascending" and not writer.sequential for place, writer in pairs)
        return self._request.flatten or cannot_seek

    def sinks(self, *, flatten: bool) -> list[Sink]:
        """What extents go to: the outputs, or flattened streams into them. What comes in order is hashed on the way."""
        algorithm = self._request.hash
        if algorithm is not None and (flatten or set(self._placements) == {"ascending"}):
            self._hashing = [HashingSink(sink, algorithm) for sink in self._sinks]
            self._sinks = [*self._hashing]
        if flatten:
            self._sinks = [FlattenedSink(sink) for sink in self._sinks]
        return self._sinks

    def complete(self, sizes: Sequence[int], progress: ProgressCallback | None) -> None:
        """All is written: do what takes long or is likely to fail before the first output appears.

        Args:
            sizes: The bytes of each output.
            progress: Told how far hashing is, where that is left to do.

        Raises:
            SinkError: One cannot be completed.
        """
        self._sizes = list(sizes)
        for sink, size in zip(self._sinks, sizes, strict=True):
            sink.prepare(size)
        for suffix, sink in self._beside.items():
            sink.prepare(self._sizes_beside[suffix])
        if self._hashing:
            self.digests, self.hashed = tuple(sink.digest for sink in self._hashing), "while writing"
        elif self._request.hash is not None:
            written = [sink.written() for sink in self._sinks]
            if None not in written:
                self._hash([backing for backing in written if backing is not None], progress)
        self._write_sums()

    @property
    def resumed_size(self) -> int:
        """Bytes that an interrupted run had stored."""
        return sum(sink.resumed_size for sink in self._stores)

    def commit(self) -> None:
        """Make all outputs appear, or none.

        Raises:
            SinkError: One cannot appear. Those that had appeared are removed.
        """
        ready = [*zip(self._sinks, self._sizes, strict=True)]
        if self.digests:
            ready += [(sink, len(self._sum_line(i))) for i, sink in self._sums.items()]
        ready += [(sink, self._sizes_beside[suffix]) for suffix, sink in self._beside.items()]
        done: list[Sink] = []
        try:
            for sink, size in ready:
                sink.commit(size)
                done.append(sink)
        except PydumpError:
            for sink in done:
                sink.retract()
            raise
        self._committed = True

    def read_back(self, progress: ProgressCallback | None) -> None:
        """Hash what has appeared, where it could not be hashed before.

        Raises:
            PydumpError: It cannot be read. It is there.
        """
        if self._request.hash is None or self.digests:
            return
        try:
            self._hash([one.storage.reader(one.url, options) for one, options in self._opened], progress)
            self._write_sums()
            for i, sink in self._sums.items():
                sink.commit(len(self._sum_line(i)))
        except PydumpError:
            for sink in self._sums.values():
                sink.abort()
            raise

    def _hash(self, backings: Sequence[Backing], progress: ProgressCallback | None) -> None:
        """Read outputs and hash them."""
        assert self._request.hash is not None
        total, before, digests = sum(backing.size for backing in backings), 0, []
        for backing in backings:

            def tell(done: int, before: int = before) -> None:
                if progress is not None:
                    progress(Progress("hash", before + done, total))

            digests.append(hash_backing(backing, self._request.hash, tell))
            before += backing.size
            backing.close()
        self.digests, self.hashed = tuple(digests), "read back"

    def _sum_line(self, i: int) -> bytes:
        one = self._opened[i][0]
        path = FileStorage.path(one.url) if issubclass(one.storage, FileStorage) else one.url
        return sum_line(self.digests[i], os.path.basename(path))

    def _write_sums(self) -> None:
        """Fill the files beside the outputs."""
        for i, sink in self._sums.items() if self.digests else ():
            line = self._sum_line(i)
            sink.write(Extent(0, line))
            sink.prepare(len(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._committed:
            for sink in (*self._sinks, *self._sums.values(), *self._beside.values()):
                sink.abort()


def targets(target: str, n: int | None) -> list[str]:
    """The output of each file.

    Args:
        target: With ``%d`` for the number of each file, counted from 0, or the outputs separated by commas. Of a dump
            that is not split, the output.
        n: The number of files, or None for a dump that is not split.

    Raises:
        PlanError: There are not so many outputs, two are the same, or ``%d`` has no use.
    """
    if n is None:
        if "%d" in os.path.basename(target):
            raise PlanError(
                f"{target} has %d for the number of a file, and the dump is not split", hint="add --split N"
            )
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
