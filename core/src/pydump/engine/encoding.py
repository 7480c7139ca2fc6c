"""Reads and encodes the batches of a dump: what an executor's workers do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from pydump.engine.batches import Batches
from pydump.engine.pace import Pace
from pydump.errors import PydumpError, failure
from pydump.interfaces.executor import Job, Spec, Task
from pydump.interfaces.sink import Sink
from pydump.interfaces.writer import Encoded, Encoder, Writer


class Encoding(Task[Encoded[Any]]):
    """Encodes batches.

    Args:
        batches: What is read.
        encoder: What it is encoded with.
        pace: How fast, or None for no limit.

    Attributes:
        batches: See above.
    """

    label = "encode"

    def __init__(self, batches: Batches, encoder: Encoder[Any], pace: Pace | None = None) -> None:
        self.batches = batches
        self._encoder = encoder
        self._pace = pace
        self.total = batches.total
        self.piece_size = batches.batch_size
        self.result_size = encoder.max_payload(batches.batch_size)

    def specs(self) -> Iterator[Spec]:
        return self.batches.specs()

    def worker(self) -> Callable[[Spec], Encoded[Any]]:
        batches, encoder, pace, buffer = self.batches, self._encoder, self._pace, self.batches.buffer()

        def encode(spec: Spec) -> Encoded[Any]:
            plugin = ""
            try:
                batch = batches.load(spec, buffer)
                if pace is not None and not spec.hole:
                    pace.take(spec.size)
                plugin = type(encoder).__module__
                encoded = encoder.encode(batch)
            except (PydumpError, MemoryError):
                raise
            except Exception as error:  # a source, format or codec that breaks is named, with where it was
                raise failure(error, plugin=plugin, where=f"at paddr {spec.runs[0][0]:#x}") from error
            if not batch.lost:
                return encoded
            sizes = [end - start for start, end in batch.lost]
            return replace(encoded, lost_size=sum(sizes), first_lost=spec.paddr(batch.lost[0][0]))

        return encode


def job_of(
    batches: Batches, writer: Writer, sink: Sink, progress: Callable[[int], None], pace: Pace | None = None
) -> Job:
    """The job of writing ``batches``, no faster than ``pace``."""
    encoder = writer.encoder()
    return Job(Encoding(batches, encoder, pace), encoder, writer, sink, progress)
