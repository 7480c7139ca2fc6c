"""Gives a function the fields of a dataclass as keywords, which are declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from pydump.options import option_fields

P = ParamSpec("P")
A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R")
T = TypeVar("T")


def with_keywords_of(
    cls: Callable[P, T],
) -> Callable[[Callable[[A, B, T], R]], Callable[Concatenate[A, B, P], R]]:
    """Turn a function's third argument, an instance of a dataclass, into keywords; type checkers see them.

    Args:
        cls: The dataclass. Its fields take the place of ``{keywords}`` in the function's docstring.
    """

    def decorate(function: Callable[[A, B, T], R]) -> Callable[Concatenate[A, B, P], R]:
        @wraps(function)
        def call(first: A, second: B, /, *args: P.args, **keywords: P.kwargs) -> R:
            try:
                made = cls(*args, **keywords)
            except TypeError:  # it names the dataclass; the caller knows the function only
                try:
                    inspect.signature(call).bind(first, second, *args, **keywords)
                except TypeError as error:
                    raise TypeError(f"{function.__name__}() {error}") from None
                raise
            return function(first, second, made)

        own = list(inspect.signature(function).parameters.values())[:2]
        keywords = inspect.signature(cls).parameters.values()
        call.__signature__ = inspect.signature(function).replace(parameters=[*own, *keywords])  # type: ignore[attr-defined]
        lines = (f"        {one.name}: {one.help}" for one in option_fields(cls) if one.help)  # type: ignore[arg-type]
        call.__doc__ = (function.__doc__ or "").format(keywords="\n".join(lines).lstrip())
        return call

    return decorate
