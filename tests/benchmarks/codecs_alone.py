"""The limit: a loop that does nothing but call the codec, on every CPU, over pages that already lie in memory."""

from __future__ import annotations

import os
import time
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from codec_calls import CODECS, converter

import pydump
from pydump.layout.zero import zero_pages

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Pages that a process takes at a time.
SHARE = 1024


class Pages:
    """The pages of a guest that are not zero, in memory.

    Attributes:
        page_size: Bytes of each.
        pages: Shape (n, page_size).
    """

    def __init__(self, path: str) -> None:
        import numpy as np

        with pydump.open(path) as vmcore:
            self.page_size = vmcore.guest.page_size or 4096
            pieces = []
            step = 64 << 20
            for block in vmcore.stated.memory:
                for at in range(block.paddr, block.end, step):
                    data = vmcore.read(at, min(step, block.end - at) // self.page_size * self.page_size)
                    rows = np.frombuffer(data, np.uint8).reshape(-1, self.page_size)
                    pieces.append(rows[~zero_pages(data, self.page_size)])
            self.pages: NDArray[np.uint8] = np.concatenate(pieces)

    def seconds(self, codec: str) -> float:
        """Seconds to compress every page once, with as many processes as this one may use CPUs."""
        context = get_context("fork")
        workers = len(os.sched_getaffinity(0))
        ready = context.Barrier(workers + 1)
        next_share = context.Value("q", 0)
        processes = [context.Process(target=self._work, args=(codec, ready, next_share)) for _ in range(workers)]
        for process in processes:
            process.start()
        ready.wait(60)
        began = time.perf_counter()
        for process in processes:
            process.join()
        took = time.perf_counter() - began
        if any(process.exitcode for process in processes):
            raise RuntimeError(f"the loop over {codec} failed")
        return took

    def _work(self, codec: str, ready: Any, next_share: Any) -> None:
        compress = CODECS[codec]()
        view, size = memoryview(self.pages).cast("B"), self.page_size
        convert = converter(codec)
        compress(convert(view[:size]))
        ready.wait()
        while True:
            with next_share.get_lock():
                first = next_share.value
                next_share.value += SHARE
            if first >= len(self.pages):
                return
            for at in range(first * size, min(first + SHARE, len(self.pages)) * size, size):
                compress(convert(view[at : at + size]))
