"""What holds for the names and options of a plugin of any role."""

from __future__ import annotations

from typing import Any

from pydump.errors import PlanError
from pydump.options import option_fields, options_of, with_values
from pydump.plugins import RESERVED, claims
from pydump.registry import installed


def faults_of_options(cls: type[Any]) -> list[str]:
    """What is wrong with the options that ``cls`` declares, a line each."""
    faults = []
    for declared, options in ((field, half) for half in options_of(cls) for field in option_fields(half)):
        said = f"option {declared.name} of {cls.name}"
        if not declared.help.strip() or not declared.help.isprintable():
            faults.append(f"the help of {said} is not a line of text: {declared.help!r}")
        try:
            with_values(cls.name, options(), {declared.name: declared.default})
        except PlanError as error:
            faults.append(f"{said} does not take its own default: {error.message}")
    return faults


def options_at_the_ends(options: type) -> list[dict[str, Any]]:
    """Values of the options that a dataclass declares: each field alone, at its least, its greatest or any choice."""
    return [
        {declared.name: value}
        for declared in option_fields(options)
        for value in (declared.low, declared.high, *declared.choices, *((True, False) if declared.type is bool else ()))
        if value is not None
    ]


def faults_of_claims(role: str, cls: type[Any]) -> list[str]:
    """Names, aliases and flags of ``cls`` that somebody else has, a line each."""
    taken = dict(RESERVED)
    for plugin in installed().plugins:
        for other_role, other in plugin.classes:
            if (other_role, other.name) != (role, cls.name):
                taken |= dict.fromkeys(claims(other_role, other), plugin.name)
    return [f"the {claim} is taken by plugin {taken[claim]}" for claim in claims(role, cls) if claim in taken]
