"""Register values as JSON: what ``pydump info --json --notes`` prints and ``pydump dump --cpus`` takes.

::

    {"cpus": [{"pc": "0x1000", "sp": "0x2000"}, {"pc": "0x1004"}]}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydump.errors import PlanError
from pydump.model.guest import Cpu


def cpus_from_json(text: str, where: str) -> tuple[Cpu, ...]:
    """The CPUs that ``text`` describes: a list of objects, or an object with such a list as ``cpus``.

    Args:
        text: The JSON; a value is a number, or a string as ``"0x1f"``.
        where: The file it comes from, for messages.

    Raises:
        PlanError: It describes none.
    """
    hint = (
        'write {"cpus": [{"NAME": "0x…", …}, …]}; pydump info --json --notes prints it, pydump --arch NAME lists names'
    )
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{where} is no JSON: {error}", hint=hint) from None
    listed = content.get("cpus") if isinstance(content, dict) else content
    if not isinstance(listed, list) or not listed or not all(isinstance(item, dict) for item in listed):
        raise PlanError(f"{where} has no list of CPUs", hint=hint)
    return tuple(
        Cpu(index, {name: _value(value, name, index, where) for name, value in item.items()})
        for index, item in enumerate(listed)
    )


def cpus_to_json(cpus: Sequence[Cpu]) -> list[dict[str, str]]:
    """The inverse of :func:`cpus_from_json`."""
    return [{name: f"{value:#x}" for name, value in cpu.registers.items()} for cpu in cpus]


def read_cpus(path: Path) -> tuple[Cpu, ...]:
    """The CPUs that a file describes.

    Raises:
        PlanError: It cannot be read, or describes none.
    """
    try:
        return cpus_from_json(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"cannot read {path}: {error}") from None


def _value(value: Any, name: str, index: int, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            return int(value, 0)
        except ValueError:
            pass
    raise PlanError(
        f"{where}: register {name} of CPU {index} is {value!r}", hint='write a number, or a string as "0x1f"'
    )
