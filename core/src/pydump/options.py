"""Plugin options: a frozen dataclass per plugin, whose fields the command line shows as ``--<owner>-<field>``.

A field is declared with :func:`option`, which carries its help text and its range::

    @dataclass(frozen=True, slots=True)
    class ZlibOptions:
        level: int = option(1, help="compression level", low=1, high=9)

The owner is the plugin's name. A class variable ``owner`` takes its place: the options of the source ``qmp`` are
``--qemu-access`` and so on, since users know QEMU.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from types import NoneType
from typing import Any, get_args, get_type_hints

from pydump.errors import PlanError

#: More digits than any address has, and so few that they can be shown.
MAX_DIGITS = 40
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True, slots=True)
class NoOptions:
    """The options of a plugin that has none."""


@dataclass(frozen=True, slots=True)
class OptionField:
    """One declared option.

    Attributes:
        name: The field's name.
        type: ``int``, ``float``, ``str`` or ``bool``.
        default: Its value when nothing is said; None where the plugin then decides by itself.
        help: One line for ``--help``.
        low: The least value of a number, or None.
        high: The greatest value of a number, or None.
        choices: The values a str may have; empty for any.
        alias: A short flag beside ``--<owner>-<field>``, such as ``--pause``; of a bool that can be denied both ways,
            such as ``--dedup/--no-dedup``. None for no alias.
        owner: What stands before the field's name in the flag, instead of the plugin's name; None for that name.
        metavar: What ``--help`` calls the value, such as ``DIR``; None for a name by its type.
        panel: The heading under which ``--help`` shows it; None for that of the plugin's role.
    """

    name: str
    type: type
    default: Any
    help: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    alias: str | None
    owner: str | None = None
    metavar: str | None = None
    panel: str | None = None

    def flags_of(self, plugin: str) -> tuple[str, ...]:
        """Its flags when it is an option of ``plugin``: the alias, if any, then ``--<owner>-<field>``."""
        name = f"{self.owner or plugin}-{self.name}".replace("_", "-")
        can_be_denied = self.type is bool and self.default is not False
        full = f"--{name}/--no-{name}" if can_be_denied else f"--{name}"
        return (full,) if self.alias in (None, full) else (str(self.alias), full)

    def flag_of(self, plugin: str) -> str:
        """The flag that messages and pages name."""
        return self.flags_of(plugin)[0].partition("/")[0]


def option(
    default: Any,
    *,
    help: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    alias: str | None = None,
    metavar: str | None = None,
    panel: str | None = None,
) -> Any:
    """A dataclass field with what the command line and the check need to know about it."""
    told = {"help": help, "low": low, "high": high, "choices": choices, "alias": alias, "metavar": metavar}
    return field(default=default, metadata=told | {"panel": panel})


def option_fields(options: type) -> tuple[OptionField, ...]:
    """The options that the dataclass ``options`` declares, in order."""
    hints = get_type_hints(options)
    return tuple(
        OptionField(
            f.name,
            next(hint for hint in get_args(hints[f.name]) or (hints[f.name],) if hint is not NoneType),
            None if f.default is MISSING else f.default,
            f.metadata.get("help", ""),
            f.metadata.get("low"),
            f.metadata.get("high"),
            f.metadata.get("choices", ()),
            f.metadata.get("alias"),
            getattr(options, "owner", None),
            f.metadata.get("metavar"),
            f.metadata.get("panel"),
        )
        for f in fields(options)
    )


def with_values(owner: str, options: Any, values: dict[str, Any]) -> Any:
    """``options`` with ``values`` set, checked against what the fields declare.

    Args:
        owner: The plugin's name, for error messages.
        options: An instance of the plugin's options dataclass.
        values: Field name to value.

    Raises:
        PlanError: A name is unknown, or a value is of another type or out of range.
    """
    declared = {f.name: f for f in option_fields(type(options))}
    for name, value in values.items():
        known = declared.get(name)
        if known is None:
            listed = ", ".join(declared) or "none"
            raise PlanError(f"{owner} has no option {name!r}", hint=f"available: {listed}")
        if not _fits(value, known):
            raise PlanError(f"{known.flag_of(owner)} must be {_wanted(known)}, not {value!r}")
    return replace(options, **values)


def options_of(plugin: type[Any]) -> tuple[type, ...]:
    """The dataclasses of options that a plugin's class has: one, and a format one more for its reader half."""
    return tuple(getattr(plugin, name, NoOptions) for name in ("Options", "ReaderOptions"))


def chosen_options(owner: str, options: type, values: Mapping[str, Mapping[str, Any]]) -> Any:
    """An instance of the dataclass ``options`` with what was chosen for it.

    A source and a format may have one name, and a format has options for each of its halves: each takes what it
    declares.

    Args:
        owner: The plugin's name.
        options: The dataclass.
        values: Options by plugin name, then by field.

    Raises:
        PlanError: A value is of another type or out of range.
    """
    declared = {f.name for f in option_fields(options)}
    own = {name: value for name, value in values.get(owner, {}).items() if name in declared}
    return with_values(owner, options(), own)


def _fits(value: Any, known: OptionField) -> bool:
    if value is None:
        return known.default is None
    typed = type(value) is known.type or (known.type is float and type(value) is int)
    return (
        typed
        and (known.low is None or value >= known.low)
        and (known.high is None or value <= known.high)
        and (not known.choices or value in known.choices)
    )


def _wanted(known: OptionField) -> str:
    if known.choices:
        return f"one of {', '.join(known.choices)}"
    if known.type in (int, float):
        bounds = (("from", known.low), ("to", known.high))
        return " ".join(
            [
                "a whole number" if known.type is int else "a number",
                *(f"{word} {bound}" for word, bound in bounds if bound is not None),
            ]
        )
    return "true or false" if known.type is bool else "text"


def parse_number(text: str, of: str = "") -> int:
    """A number as people write addresses and sizes: ``0x40000000``, ``1048576``, ``512M``.

    Args:
        text: What was typed.
        of: What it was typed for, such as an option, which the error names.

    Raises:
        PlanError: It is none.
    """
    match = re.fullmatch(
        rf"(0x[0-9a-f]{{1,{MAX_DIGITS}}}|[0-9]{{1,{MAX_DIGITS}}})([kmgt]?)(i?b)?", text.strip().lower()
    )
    if not match:
        shown = text if len(text) <= MAX_DIGITS else f"{text[:MAX_DIGITS]}…"
        what = f"{of}: {shown!r}" if of else repr(shown)
        raise PlanError(f"{what} is not an address or size", hint="write 0x40000000, 1048576 or 512M")
    return int(match[1], 0 if match[1].startswith("0x") else 10) * _UNITS[match[2]]


def parse_rate(text: str) -> int:
    """Bytes a second, as people write them: ``200M`` or ``1048576``, also with ``/s``.

    Raises:
        PlanError: It is not a rate.
    """
    try:
        return parse_number(re.sub(r"/s$", "", text.strip().lower()))
    except PlanError:
        shown = text if len(text) <= MAX_DIGITS else f"{text[:MAX_DIGITS]}…"
        raise PlanError(f"{shown!r} is not a rate", hint="write bytes per second: 200M or 1048576") from None
