"""Leaves options of ``dump`` out where the dump that was asked for cannot be had, and any dump is better than none."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final

import typer

from pydump.cli.program import command_named
from pydump.errors import PlanError, PydumpError

#: By the exit code of a dump: what to leave out, one step after the other, by the panels of options and by flags. A
#: dump that is refused does without what it should hold, then also without how it is written. One that fails does
#: without the way to memory; whether the guest is paused stays as the user wants it.
STEPS: Final[dict[int, tuple[tuple[str, ...], ...]]] = {
    PlanError.exit_code: (("Filter", "What to write", "Input"), ("Format and compression",)),
    PydumpError.exit_code: (("--qemu-access",),),
}
#: An option of those panels that is kept: without it the guest may not be known at all.
KEPT: Final = "arch"


def simpler(words: Sequence[str], code: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The options of a dump that asks for less.

    Args:
        words: Options of ``dump`` as on its command line, which it has accepted.
        code: The exit code of the dump with all of them.

    Returns:
        The words that are kept, and those that are left out: none where that would not help.
    """
    command: Any = command_named("dump")
    params = {flag: param for param in command.get_params(typer.Context(command)) for flag in param.opts}
    for step in STEPS.get(code, ()):
        kept: list[str] = []
        left_out: list[str] = []
        for param, its in _options(words, params):
            dropped = not {command.panel_of(param), *param.opts}.isdisjoint(step) and param.name != KEPT
            (left_out if dropped else kept).extend(its)
        if left_out:
            return tuple(kept), tuple(left_out)
    return tuple(words), ()


def _options(words: Sequence[str], params: dict[str, Any]) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Each option, with its words: ``-qd 31`` is ``-q`` and ``-d 31``."""
    rest = deque(words)
    while rest:
        word = rest.popleft()
        if word.startswith("--"):
            flag, equals, _ = word.partition("=")
            complete = bool(equals)
        else:
            flag, complete = word[:2], len(word) > 2
        param = params[flag]
        if param.is_flag and complete:
            rest.appendleft(f"-{word[2:]}")
            word = flag
        yield param, (word,) if param.is_flag or complete else (word, rest.popleft())
