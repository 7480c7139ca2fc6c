"""What runs in a worker."""

from __future__ import annotations

import pickle
import platform
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

from distributed import get_worker

from pydump.errors import PydumpError, failure
from pydump.interfaces.executor import Spec, Task
from pydump.interfaces.writer import Encoded

#: The last task that this thread worked on: its token, and what works on a piece.
_local = threading.local()


def installed() -> dict[str, str]:
    """The versions of Python, of pydump and of all its plugins."""
    plugins = {entry.dist.name: entry.dist.version for entry in metadata.entry_points(group="pydump") if entry.dist}
    return {"Python": platform.python_version(), "pydump-core": metadata.version("pydump-core"), **plugins}


def keep(data: bytes) -> bytes:
    """The same bytes: a task of its own, so that they are sent to each worker once."""
    return data


def work(data: bytes, token: str, specs: list[Spec]) -> list[tuple[bytes, bool]]:
    """Work on pieces.

    Args:
        data: The pickled task.
        token: Tells it from others.
        specs: The pieces.

    Returns:
        The pickled result of each, and whether it is an error; nothing follows an error.
    """
    results = []
    try:
        examine = _worker(data, token)
        for spec in specs:
            results.append((pickle.dumps(examine(spec), protocol=5), False))
    except Exception as error:
        results.append((pickle.dumps(_said(error)), True))
    return results


def _said(error: Exception) -> PydumpError:
    """What went wrong in a worker."""
    if isinstance(error, MemoryError):
        return PydumpError("a dask worker is out of memory")
    return failure(error, "a dask worker failed")


@dataclass(frozen=True, slots=True)
class Encodings:
    """What became of some batches, kept by the worker that made it until it is written.

    Attributes:
        batches: Each pickled, in order: what an encoder makes may refer to a buffer that the next batch will be in.
        summaries: What is to be known of them to place them, pickled.
        error: Why there are no more, or None.
        worker: The address of the worker that made it.
    """

    batches: tuple[bytes, ...]
    summaries: bytes
    error: PydumpError | None
    worker: str

    def __sizeof__(self) -> int:
        """What dask takes into account."""
        return sum(map(len, self.batches)) + len(self.summaries)


def encode(data: bytes, token: str, specs: list[Spec]) -> Encodings:
    """Encode batches, and keep what they became; see :func:`work`."""
    batches: list[bytes] = []
    summaries: list[Encoded[Any]] = []
    error = None
    try:
        examine = _worker(data, token)
        for spec in specs:
            one: Encoded[Any] = examine(spec)
            batches.append(pickle.dumps(one, protocol=5))
            summaries.append(replace(one, payload=None, table=None))
    except Exception as fault:
        error = _said(fault)
    return Encodings(tuple(batches), pickle.dumps(summaries, protocol=5), error, get_worker().address)


def summary(made: Encodings) -> tuple[bytes, PydumpError | None, str]:
    """What the driver needs to place batches: pickled; what went wrong with the next; and where they are."""
    return made.summaries, made.error, made.worker


def write(made: Encodings, data: bytes, places: list[tuple[int, Any]]) -> None:
    """Write batches where the driver says.

    Args:
        made: The batches.
        data: The pickled encoder, and the output.
        places: For each batch where its payload begins, and what the placer said.

    Raises:
        SinkError: They could not be written.
    """
    encoder, share = pickle.loads(data)
    for batch, (start, answer) in zip(made.batches, places, strict=True):
        share.write(encoder.extents(pickle.loads(batch), start, answer))


def _worker(data: bytes, token: str) -> Callable[[Spec], Any]:
    if getattr(_local, "token", None) != token:
        task: Task[Any] = pickle.loads(data)
        _local.work, _local.token = task.worker(), token
    found: Callable[[Spec], Any] = _local.work
    return found
