"""Parts of an upload that workers make and send themselves.

Where a part begins and ends follows from the output's offsets alone. A worker sends each part that lies within its run
of batches. Of a part that several runs share one worker gets the pieces of the others, and sends it. Through the driver
goes what lies before the payload (headers, and page descriptors, of which a run has few), and what the last part has.
"""

from __future__ import annotations

import pickle
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydump.interfaces.executor import Job
from pydump.interfaces.sink import Extent, Hole, SharedParts
from pydump_executor_dask.worker import Encodings
from pydump_executor_dask.writing import Writes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from distributed import Future

    from pydump_executor_dask.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Told:
    """What the driver hears of a run that was cut into parts.

    Attributes:
        stored: The number of each part that was stored, and what the sink is told of it.
        driven: What the driver is to write.
        kept: The number of each part of which the worker keeps pieces; their bytes, and those of the part.
    """

    stored: tuple[tuple[int, str], ...]
    driven: tuple[Extent | Hole, ...]
    kept: Mapping[int, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Cut:
    """A run that was cut into parts, as its worker keeps it.

    Attributes:
        told: See there.
        pieces: Those that are kept, by the number of the part.
    """

    told: Told
    pieces: Mapping[int, tuple[Extent | Hole, ...]]

    def __sizeof__(self) -> int:
        """What dask takes into account."""
        return sum(piece.size for some in self.pieces.values() for piece in some if isinstance(piece, Extent))


def cut(made: Encodings, data: bytes, places: list[tuple[int, Any]]) -> Cut:
    """Send the parts that lie within a run.

    Args:
        made: The run's batches.
        data: The pickled encoder, the output, and where the parts of workers begin.
        places: For each batch where its payload begins, and what the placer said.

    Raises:
        SinkError: A part could not be stored.
    """
    encoder, share, first = pickle.loads(data)
    driven: list[Extent | Hole] = []
    pieces: dict[int, list[Extent | Hole]] = {}
    sizes: dict[int, int] = {}
    for batch, (start, answer) in zip(made.batches, places, strict=True):
        for extent in encoder.extents(pickle.loads(batch), start, answer):
            for number, begin, size, piece in in_parts(extent, share):
                if begin < first:
                    driven.append(piece)
                else:
                    pieces.setdefault(number, []).append(piece)
                    sizes[number] = size
    filled = {number: sum(piece.size for piece in some) for number, some in pieces.items()}
    whole = [number for number in pieces if filled[number] == sizes[number]]
    stored = tuple((number, share.store(number, joined(pieces.pop(number)))) for number in whole)
    kept = {number: tuple(map(own, some)) for number, some in pieces.items()}
    told = Told(stored, tuple(map(own, driven)), {number: (filled[number], sizes[number]) for number in kept})
    return Cut(told, kept)


def in_parts(extent: Extent | Hole, share: SharedParts) -> Iterator[tuple[int, int, int, Extent | Hole]]:
    """An extent cut at the borders of parts: the number, begin and size of each part, and the piece in it."""
    view = memoryview(extent.data).cast("B") if isinstance(extent, Extent) else None
    at, end = extent.offset, extent.offset + extent.size
    while at < end:
        number, begin, size = share.part_at(at)
        stop = min(end, begin + size)
        if view is None:
            yield number, begin, size, Hole(at, stop - at)
        else:
            yield number, begin, size, Extent(at, view[at - extent.offset : stop - extent.offset])
        at = stop


def joined(pieces: Iterable[Extent | Hole]) -> bytearray:
    """The bytes of a part from all its pieces."""
    ordered = sorted(pieces, key=lambda piece: piece.offset)
    start = ordered[0].offset
    data = bytearray(ordered[-1].offset + ordered[-1].size - start)
    for piece in ordered:
        if isinstance(piece, Extent):
            data[piece.offset - start : piece.offset - start + piece.size] = piece.data
    return data


def own(piece: Extent | Hole) -> Extent | Hole:
    """The same piece, which refers to no larger buffer."""
    return piece if isinstance(piece, Hole) else Extent(piece.offset, bytes(piece.data))


def told(run: Cut) -> Told:
    """What goes to the driver."""
    return run.told


def join(number: int, data: bytes, *cuts: Cut) -> str:
    """Send a part that several runs share; what the sink is told.

    Raises:
        SinkError: It could not be stored.
    """
    _, share, _ = pickle.loads(data)
    token: str = share.store(number, joined(piece for one in cuts for piece in one.pieces[number]))
    return token


def rest(number: int, run: Cut) -> tuple[Extent | Hole, ...]:
    """The pieces of a part that stays incomplete: the driver writes them."""
    return run.pieces[number]


class Uploads(Writes):
    """To a store that takes parts.

    Args:
        cluster: Whose workers send them.
        job: What is written.
        share: The upload.
    """

    def __init__(self, cluster: Cluster, job: Job, share: SharedParts) -> None:
        self._cluster, self._sink = cluster, job.sink
        _, begin, size = share.part_at(job.writer.start)
        # A sink's first part is complete at the end alone.
        first = begin if 0 < begin == job.writer.start else begin + size
        self._output, self._token = cluster.keep(pickle.dumps((job.encoder, share, first)), "output")
        self.running: deque[Future[Any]] = deque()
        self._cuts: deque[tuple[Future[Cut], Future[Told]]] = deque()
        self._joins: deque[tuple[int, Future[str]]] = deque()
        #: By the number of a part that is not complete: the runs that have pieces of it, and their bytes.
        self._open: dict[int, tuple[list[Future[Cut]], int]] = {}

    def add(self, made: Future[Encodings], places: list[tuple[int, Any]], worker: str) -> None:
        submit = self._cluster.client.submit
        how = {"workers": [worker], "allow_other_workers": True, "priority": 1}
        key = str(made.key)
        run = submit(cut, made, self._output, places, key=key.replace("encode", "cut", 1), **how)
        heard = submit(told, run, key=key.replace("encode", "told", 1), **how)
        self._cuts.append((run, heard))
        self.running += (run, heard)

    def settle(self, most: int) -> None:
        while len(self._cuts) > most:
            run, heard = self._cuts.popleft()
            self._take(run, self._cluster.wait(heard))
        while len(self._joins) > most:
            number, joining = self._joins.popleft()
            self._sink.stored(number, self._cluster.wait(joining))
        if most == 0:
            self._finish()
        while self.running and self.running[0].done():
            self.running.popleft()

    def _take(self, run: Future[Cut], heard: Told) -> None:
        """Write what a run leaves to the driver, and have parts sent that are complete with it."""
        for extent in heard.driven:
            self._sink.write(extent)
        for number, token in heard.stored:
            self._sink.stored(number, token)
        for number, (here, size) in heard.kept.items():
            holders, filled = self._open.pop(number, ([], 0))
            holders.append(run)
            if filled + here < size:
                self._open[number] = holders, filled + here
                continue
            key = f"pydump-join-{self._token}-{number}"
            joining = self._cluster.client.submit(join, number, self._output, *holders, key=key, priority=1)
            self._joins.append((number, joining))
            self.running.append(joining)

    def _finish(self) -> None:
        """Fetch the pieces of parts that stay incomplete: the last, and those with bytes that nobody writes."""
        for number in sorted(self._open):
            for run in self._open.pop(number)[0]:
                for extent in self._cluster.wait(self._cluster.client.submit(rest, number, run)):
                    self._sink.write(extent)
