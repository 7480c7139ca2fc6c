"""Refuses options of plugins that are not used: they would have no effect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydump.errors import PlanError
from pydump.options import NoOptions, option_fields

if TYPE_CHECKING:
    from pydump.interfaces.compressor import Compressor
    from pydump.interfaces.executor import Executor
    from pydump.interfaces.filter import Filter
    from pydump.interfaces.format import Format
    from pydump.interfaces.source import Source
    from pydump.interfaces.storage import Storage


def refuse_options(
    options: Mapping[str, Mapping[str, Any]],
    role: str,
    others: Iterable[type[Compressor | Executor | Filter | Format | Source | Storage]],
    instead: str,
    *,
    reading: bool = False,
) -> None:
    """Refuse options of plugins that are not the chosen one.

    Args:
        options: Options by plugin name, then by field.
        role: The role of the plugins.
        others: All plugins of that role except the chosen one.
        instead: What was chosen, in words.
        reading: Refuse the options of reader halves of formats.

    Raises:
        PlanError: There is such an option.
    """
    for cls in others:
        declaration = getattr(cls, "ReaderOptions", NoOptions) if reading else cls.Options
        for declared in option_fields(declaration):
            if declared.name in options.get(cls.name, {}):
                raise PlanError(f"{declared.flag_of(cls.name)} is of {role} {cls.name}, and {instead}")
