"""From what the user names to an executor: ``NAME[:ARGUMENT]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydump.builtin.local import LocalExecutor
from pydump.engine.live import Input, is_live
from pydump.engine.unused import refuse_options
from pydump.errors import PlanError, UnsupportedError
from pydump.interfaces.executor import Executor
from pydump.options import chosen_options
from pydump.plugins import returned
from pydump.registry import Registry


def open_executor(
    name: str | None,
    workers: int | None,
    registry: Registry,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Executor:
    """Open an executor, which is to be closed.

    Args:
        name: ``NAME[:ARGUMENT]``, or None for local workers.
        workers: Local workers, or None for the CPUs this process may use.
        registry: What is installed.
        options: Options by plugin name, then by field.

    Raises:
        PydumpError: It cannot be opened, for the reason the error gives.
    """
    name = LocalExecutor.name if name is None else name
    if not name or name.endswith(":"):
        raise PlanError(
            f"--executor {name or repr(name)} names no workers",
            hint=f"write {name.rstrip(':')}, or leave --executor out" if name.strip(":") else "leave --executor out",
        )
    name, _, argument = name.partition(":")
    cls = registry.executor(name)
    others = (other for other in registry.executors() if other is not cls)
    refuse_options(options or {}, "executor", others, f"the executor is {name}")
    if cls is LocalExecutor and not argument:
        return LocalExecutor(workers)
    if workers is not None:
        raise PlanError(f"--workers does not go with --executor {name}:{argument}", hint="leave one of the two out")
    return returned(cls.open(argument, chosen_options(name, cls.Options, options or {})), Executor, cls.open)


def refuse_live(opened: Input, executor: Executor) -> None:
    """Refuse a live guest where workers would have to open it for themselves.

    Raises:
        UnsupportedError: They would.
    """
    if is_live(opened) and not executor.inherits:
        raise UnsupportedError(
            f"the workers of executor {executor.name} cannot read a live guest",
            hint="dump it to a file without --executor, and convert that",
        )
