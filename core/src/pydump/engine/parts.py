"""The files of a dump: how each is encoded and written."""

from __future__ import annotations

from collections.abc import Sequence

from pydump.engine.encoding import job_of
from pydump.engine.pace import Pace
from pydump.engine.planner import Chosen, Planned
from pydump.engine.salvage import SalvagingBatches
from pydump.interfaces.executor import Executor, Outcome
from pydump.interfaces.image import MemoryImage
from pydump.interfaces.sink import Sink
from pydump.interfaces.writer import Writer
from pydump.model.progress import Progress, ProgressCallback
from pydump.plugins import returned


class Files:
    """The files of a dump: one, or those over which it is split, which are written one after the other.

    Args:
        image: What is read.
        planned: The plan of the whole dump.
        chosen: What the request decides by itself.
        n: The number of files of a split dump, or None for one file.
        batch_size: Bytes of guest memory that are encoded at once.

    Raises:
        UnsupportedError: The format cannot be split.
        PlanError: There is too little memory for so many files.

    Attributes:
        writers: The writer of each file.
        n_pieces: How many workers could have something to do.
        size_limit: The bytes of all files, at most.
    """

    def __init__(self, image: MemoryImage, planned: Planned, chosen: Chosen, n: int | None, batch_size: int) -> None:
        self.writers = [planned.writer]
        if n is not None:
            plans = chosen.format.split(planned.plan, n)
            make = chosen.format.writer
            self.writers = [returned(make(plan, chosen.compressor), Writer, make) for plan in plans]
        readable = planned.plan.readable()
        self._batches = [SalvagingBatches.of(image, readable, writer, batch_size) for writer in self.writers]
        for batches in self._batches:
            batches.page_size = planned.plan.guest.page_size or batches.page_size
        self._outcomes: list[Outcome] = []
        self.n_pieces = max(batches.n_batches for batches in self._batches)
        self.size_limit = sum(writer.size_limit for writer in self.writers)

    def write(
        self, executor: Executor, sinks: Sequence[Sink], progress: ProgressCallback | None, pace: Pace | None = None
    ) -> Outcome:
        """Write headers and pages, no faster than ``pace``.

        Returns:
            What all files add up to.
        """
        before, total = 0, sum(batches.total for batches in self._batches)
        for batches, writer, sink in zip(self._batches, self.writers, sinks, strict=True):

            def tell(done: int, before: int = before) -> None:
                if progress is not None:
                    progress(Progress("dump", before + done, total))

            self._outcomes.append(executor.run(job_of(batches, writer, sink, tell, pace)))
            before += batches.total
        return _added(self._outcomes)

    def finish(self, sinks: Sequence[Sink]) -> list[int]:
        """Write what comes after the pages.

        Returns:
            The size of each file.
        """
        sizes = []
        lost_size = _added(self._outcomes).lost_size  # the headers of all files say so: they are equal
        for writer, sink, outcome in zip(self.writers, sinks, self._outcomes, strict=True):
            writer.lost_size = lost_size
            for extent in writer.finish(outcome.end):
                sink.write(extent)
            sizes.append(writer.size(outcome.end))
        return sizes


def _added(outcomes: Sequence[Outcome]) -> Outcome:
    """What all files add up to."""
    return Outcome(
        sum(one.end for one in outcomes),
        sum(one.zero_size for one in outcomes),
        sum(one.taken_size for one in outcomes),
        sum(one.lost_size for one in outcomes),
        next((one.first_lost for one in outcomes if one.first_lost is not None), None),
    )
