"""What runs in a worker."""

from __future__ import annotations

import pickle
import platform
import threading
from collections.abc import Callable
from importlib import metadata
from typing import Any

from pydump.errors import PydumpError
from pydump.interfaces.executor import Spec, Task

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
    except PydumpError as error:
        results.append((pickle.dumps(error), True))
    except MemoryError:
        results.append((pickle.dumps(PydumpError("a dask worker is out of memory")), True))
    except Exception as error:
        said = PydumpError(f"a dask worker failed: {type(error).__name__}: {error}")
        results.append((pickle.dumps(said), True))
    return results


def _worker(data: bytes, token: str) -> Callable[[Spec], Any]:
    if getattr(_local, "token", None) != token:
        task: Task[Any] = pickle.loads(data)
        _local.work, _local.token = task.worker(), token
    found: Callable[[Spec], Any] = _local.work
    return found
