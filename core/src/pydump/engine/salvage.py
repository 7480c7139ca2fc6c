"""Goes on where single pages of a source are damaged: they are lost, and the others are written."""

from __future__ import annotations

from pydump.engine.batches import Batches, Spec
from pydump.errors import DamagedPageError
from pydump.interfaces.format import Batch


class SalvagingBatches(Batches):
    """Batches that are read page by page where a page of them is damaged.

    Attributes:
        page_size: Of the guest, in bytes.
    """

    page_size: int = 4096

    def load(self, spec: Spec, buffer: memoryview) -> Batch:
        try:
            return super().load(spec, buffer)
        except DamagedPageError:
            return self._salvaged(spec, buffer)

    def _salvaged(self, spec: Spec, buffer: memoryview) -> Batch:
        lost: list[tuple[int, int]] = []
        done = 0
        for start, end in spec.runs:
            at = start
            while at < end:
                stop = min(end, (at // self.page_size + 1) * self.page_size)
                piece = buffer[done : done + stop - at]
                try:
                    self._fill(at, piece)
                except DamagedPageError:
                    piece[:] = bytes(len(piece))
                    lost.append((done, done + len(piece)))
                done += stop - at
                at = stop
        return Batch(spec.position, spec.size, buffer[: spec.size], lost=tuple(lost))
