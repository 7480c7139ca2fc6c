"""Leaves options of ``dump`` out where the dump that was asked for is refused, and any dump is better than none."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final

import typer

from pydump.cli.program import command_named

#: Panels of options to leave out, one step after the other: first what the dump holds, then how it is written.
STEPS: Final = (
    ("Filter", "What to write", "Input"),
    ("Filter", "What to write", "Input", "Format and compression"),
)
#: An option of those panels that is kept: without it the guest may not be known at all.
KEPT: Final = "arch"


def simpler(words: Sequence[str]) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The options of a dump that asks for less and less.

    Args:
        words: Options of ``dump`` as on its command line, which it has accepted.

    Yields:
        The words that are kept, and those that are left out: at least one, and more each time.
    """
    command: Any = command_named("dump")
    params = {flag: param for param in command.get_params(typer.Context(command)) for flag in param.opts}
    before: tuple[str, ...] = ()
    for panels in STEPS:
        kept: list[str] = []
        left_out: list[str] = []
        for param, its in _options(words, params):
            dropped = command.panel_of(param) in panels and param.name != KEPT
            (left_out if dropped else kept).extend(its)
        if len(left_out) > len(before):
            before = tuple(left_out)
            yield tuple(kept), before


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
