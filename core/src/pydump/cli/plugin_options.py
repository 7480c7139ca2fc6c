"""The options of commands that installed plugins declare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import typer
from typer import Option
from typer.main import get_click_param
from typer.models import ParamMeta

from pydump.options import option_fields

if TYPE_CHECKING:
    from pydump.interfaces.compressor import Compressor
    from pydump.interfaces.executor import Executor
    from pydump.interfaces.filter import Filter
    from pydump.interfaces.format import Format
    from pydump.interfaces.source import Source
    from pydump.interfaces.storage import Storage
    from pydump.options import OptionField
    from pydump.registry import Registry

#: Where a command's context keeps what was given: plugin name to field to value.
_KEY: Final = "pydump.plugin_options"


def formats(registry: Registry) -> str:
    """The help of ``--format``."""
    written = [name for name in registry.names("format") if registry.format(name).format.writes()]
    names = ", ".join(written) or "none is installed: pip install pydump-format-kdump"
    alias = next((alias for cls in registry.formats() for alias in cls.aliases), None)
    known = f"{names}, or QEMU's names, such as {alias}" if alias else names
    return f"{known}; OUTPUT may end with it, as vmcore.elf does. Default: kdump."


def compressions(registry: Registry) -> str:
    """The help of ``--compression``."""
    known = registry.names("compressor")
    usable = dict.fromkeys(name for cls in registry.formats() for name in cls.compressors if name in known)
    return f"{', '.join(usable)} or none. Default: {next(iter(usable))}." if usable else "none."


def classes(registry: Registry) -> str:
    """The help of ``--exclude``."""
    return (
        f"Leave out these pages: {','.join(['zero', *(name for cls in registry.filters() for name in cls.classes)])}."
    )


def of_readers(registry: Registry) -> list[Any]:
    """A parameter for each option of each format's reader half, and of each source that has them for reading."""
    formats = [(cls.name, cls.ReaderOptions, "Input") for cls in registry.formats()]
    sources = [(cls.name, cls.Options, "Live guest") for cls in registry.sources() if cls.options_for_reading]
    return [
        _parameter(name, declared, panel)
        for name, options, panel in formats + sources
        for declared in option_fields(options)
    ]


def parameters(registry: Registry) -> list[Any]:
    """A parameter for each option of each plugin but architectures, and of each format's reader half."""
    panels: dict[str, tuple[type[Source | Storage | Format | Filter | Compressor | Executor], ...]] = {
        "Live guest": tuple(cls for cls in registry.sources() if not cls.options_for_reading),
        "Filter": registry.filters(),
        "Format and compression": (*registry.formats(), *registry.compressors()),
        "Output": registry.storages(),
        "Running": registry.executors(),
    }
    return of_readers(registry) + [
        _parameter(cls.name, declared, panel)
        for panel, some in panels.items()
        for cls in some
        for declared in option_fields(cls.Options)
    ]


def given(context: typer.Context) -> dict[str, dict[str, Any]]:
    """What was given on the command line: plugin name to field to value."""
    values: dict[str, dict[str, Any]] = context.meta.get(_KEY, {})
    return values


def _parameter(owner: str, declared: OptionField, panel: str) -> Any:
    text = f"{owner}: {declared.help}"
    if declared.low is not None and declared.high is not None:
        text += f", {declared.low} to {declared.high}"
    elif declared.low is not None:
        text += f", at least {declared.low}"
    default = f" Default: {declared.default}." if declared.default not in ("", None, False) else ""

    def keep(context: typer.Context, value: Any) -> None:
        if value is not None:
            context.meta.setdefault(_KEY, {}).setdefault(owner, {})[declared.name] = value

    # The choices are shown, checked and completed as those of the command line's own options are. Not kind | None:
    # Python takes two unions of the same words in another order for one.
    kind: Any = Literal[declared.choices] if declared.choices else declared.type
    metavar = None if declared.choices else declared.metavar or {int: "N", float: "N", str: "TEXT"}.get(declared.type)
    shown = Option(
        None,
        *declared.flags_of(owner),
        help=f"{text}.{default}",
        metavar=metavar,
        rich_help_panel=panel,
        callback=keep,
        expose_value=False,
    )
    name = f"plugin__{owner}__{declared.name}".replace("-", "_")  # nobody sees it; it must be an identifier
    return get_click_param(ParamMeta(name=name, default=shown, annotation=kind))[0]
