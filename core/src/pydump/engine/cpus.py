"""Register values as JSON: what ``pydump info --json --notes`` prints and ``pydump dump --cpus`` takes.

::

    {"cpus": [{"pc": "0x1000", "sp": "0x2000"}, {"pc": "0x1004"}]}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pydump.errors import PlanError
from pydump.model.guest import Cpu

#: A file with the registers of 4,096 CPUs is not as long as this.
MAX_SIZE: Final = 256 << 20
_HINT: Final = (
    'write {"cpus": [{"NAME": "0x…", …}, …]}; pydump info --json --notes prints it, pydump --arch NAME lists names'
)


def cpus_from_json(text: str, where: str) -> tuple[Cpu, ...]:
    """The CPUs that ``text`` describes: a list of objects, or an object with such a list as ``cpus``.

    Args:
        text: The JSON; a value is a number, or a string as ``"0x1f"``.
        where: The file it comes from, for messages.

    Raises:
        PlanError: It describes none.
    """
    try:
        content = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{where} is not JSON: {error}", hint=_HINT) from None
    listed = content.get("cpus") if isinstance(content, dict) else content
    if not isinstance(listed, list) or not listed or not all(isinstance(item, dict) for item in listed):
        raise PlanError(f"{where} has no list of CPUs", hint=_HINT)
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
        with path.open("rb") as file:
            content = file.read(MAX_SIZE + 1)
        if len(content) > MAX_SIZE:
            raise PlanError(f"{path} is longer than any list of CPUs", hint=_HINT)
        return cpus_from_json(content.decode(), str(path))
    except OSError as error:
        raise PlanError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PlanError(f"{path} is not JSON: it is not UTF-8 text", hint=_HINT) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys stand in it once each: of two values, nobody knows which is meant."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice in one object")
    return content


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
