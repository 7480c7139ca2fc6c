"""What runs in a worker."""

from __future__ import annotations

import pickle
import platform
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

from pydump.errors import PydumpError
from pydump.interfaces.executor import Spec, Task
from pydump.interfaces.writer import Encoded

#: The last task that this thread worked on: its token, and what works on a piece.
_local = threading.local()


def installed() -> dict[str, str]:
    """The versions of Python, of pydump and of all its plugins."""
    found = {
        dist.name: dist.version
        for dist in metadata.distributions()
        if dist.name == "pydump-core" or any(entry.group == "pydump" for entry in dist.entry_points)
    }
    return {"Python": platform.python_version(), **found}


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
    if isinstance(error, PydumpError):
        return error
    if isinstance(error, MemoryError):
        return PydumpError("a dask worker is out of memory")
    return PydumpError(f"a dask worker failed: {type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True)
class Encodings:
    """What became of some batches, kept by the worker that made it until it is written.

    Attributes:
        batches: Them, in order.
        error: Why there are no more, or None.
    """

    batches: tuple[Encoded[Any], ...]
    error: PydumpError | None

    def __sizeof__(self) -> int:
        """What dask takes into account."""
        return 1000 + sum(memoryview(one.payload).nbytes for one in self.batches if one.payload is not None)


def encode(data: bytes, token: str, specs: list[Spec]) -> Encodings:
    """Encode batches, and keep what they became; see :func:`work`."""
    batches: list[Encoded[Any]] = []
    try:
        examine = _worker(data, token)
        for spec in specs:
            one: Encoded[Any] = examine(spec)
            if isinstance(one.payload, memoryview):  # of a buffer that the next batch will be in
                one = replace(one, payload=bytes(one.payload))
            batches.append(one)
    except Exception as error:
        return Encodings(tuple(batches), _said(error))
    return Encodings(tuple(batches), None)


def summary(made: Encodings) -> tuple[bytes, PydumpError | None]:
    """What the driver needs to know of batches to place them."""
    return pickle.dumps([replace(one, payload=None, table=None) for one in made.batches], protocol=5), made.error


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
    for one, (start, answer) in zip(made.batches, places, strict=True):
        share.write(encoder.extents(one, start, answer))


def _worker(data: bytes, token: str) -> Callable[[Spec], Any]:
    if getattr(_local, "token", None) != token:
        task: Task[Any] = pickle.loads(data)
        _local.work, _local.token = task.worker(), token
    found: Callable[[Spec], Any] = _local.work
    return found
