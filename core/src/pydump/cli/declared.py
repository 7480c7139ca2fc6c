"""Options of commands that are made from what :class:`pydump.model.request.Request` and plugins declare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from typer import Context, Option
from typer.main import get_click_param
from typer.models import OptionInfo, ParamMeta

from pydump.model.request import OPTIONS, flags
from pydump.options import OptionField, parse_number, parse_rate

if TYPE_CHECKING:
    from pydump.model.guest import Cpu
    from pydump.model.vmcoreinfo import Vmcoreinfo

#: Where a command's context keeps what was asked of a dump, by field.
_KEY: Final = "pydump.request"


def completes(role: str) -> Callable[[str], list[str]]:
    """Completes the names that plugins have for ``role``."""

    def complete(incomplete: str) -> list[str]:
        from pydump.registry import installed

        registry = installed()
        # Aliases of architectures are for files that use them.
        offered = registry.names(role) if role == "arch" else registry.words(role)
        if role == "format":
            offered = tuple(word for word in offered if registry.format(word).format.writes())
        return [word for word in offered if word.startswith(incomplete)]

    return complete


def _vmcoreinfo(text: str) -> Vmcoreinfo | Literal["memory"]:
    from pydump.engine.vmcoreinfo import read_vmcoreinfo

    return "memory" if text == "memory" else read_vmcoreinfo(Path(text))


def _cpus(path: str) -> tuple[Cpu, ...]:
    from pydump.engine.cpus import read_cpus

    return read_cpus(Path(path))


#: How the command line reads what is more than a word, a number or a switch.
_READERS: Final[dict[str, Callable[[str], Any]]] = {
    "begin": parse_number,
    "length": parse_number,
    "max_rate": parse_rate,
    "vmcoreinfo": _vmcoreinfo,
    "cpus": _cpus,
    "exclude": lambda text: [name.strip() for name in text.split(",")],
}
#: The fields whose values are names of plugins, and the role of these.
_NAMES: Final = {"arch": "arch", "format": "format", "compression": "compressor", "executor": "executor"}
_FIELDS: Final = {declared.name: declared for declared in OPTIONS}


def flag(name: str, *default: Any, **settings: Any) -> OptionInfo:
    """The option of a field of the request. A command's signature that has it too says the default itself."""
    declared = _FIELDS[name]
    made: OptionInfo = Option(
        *default,
        *flags(declared),
        metavar=declared.metavar,
        help=f"Do not {declared.help[0].lower()}{declared.help[1:]}" if declared.default is True else declared.help,
        rich_help_panel=declared.panel,
        show_default=declared.type is not bool,
        autocompletion=completes(_NAMES[name]) if name in _NAMES else None,
        **settings,
    )
    return made


def of_request() -> list[Any]:
    """A parameter for each field of the request."""
    return [_parameter(declared) for declared in _FIELDS.values()]


def _parameter(declared: OptionField) -> Any:
    denies = declared.default is True

    def keep(context: Context, value: Any) -> None:
        context.meta.setdefault(_KEY, {})[declared.name] = not value if denies else value

    kind: Any = declared.type
    if declared.name in _READERS:
        kind = Path if declared.metavar == "FILE" else str
    default = None if declared.name in _READERS else declared.default
    shown = flag(declared.name, False if denies else default, callback=keep, expose_value=False)
    return get_click_param(ParamMeta(name=declared.name, default=shown, annotation=kind))[0]


def asked(context: Context) -> dict[str, Any]:
    """The fields of the request as they were given on the command line.

    Raises:
        PydumpError: A value cannot be read.
    """
    given: dict[str, Any] = context.meta[_KEY]
    read = {name: _READERS[name](str(given[name])) for name in _READERS if given[name] is not None}
    return {name: value for name, value in given.items() if name not in _READERS} | read
