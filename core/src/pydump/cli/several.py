"""A command for one file or for several: one that fails does not keep it from the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydump.cli import render
from pydump.cli.ending import complain, error_object
from pydump.cli.session import session
from pydump.errors import Cancelled, PlanError, PydumpError

#: Shows one file, or returns what JSON has of it; and the exit code.
Work = Callable[[str], tuple[dict[str, Any], int]]


def each(files: Sequence[str], work: Work, *, as_json: bool, blank: bool = False) -> int:
    """Do ``work`` for each file.

    Args:
        files: What the user named.
        work: Done for each.
        as_json: Print what it returns: of one file its object, of several an object whose ``files`` are these.
        blank: Print an empty line between two files.

    Returns:
        The highest exit code.

    Raises:
        PydumpError: The only file could not be opened.
        PlanError: Standard input is named twice.
    """
    refuse_twice(files)
    if len(files) == 1:
        value, code = work(files[0])
        if as_json:
            render.print_json(value)
        return code
    values: list[dict[str, Any]] = []
    worst = 0
    for file in files:
        if blank and not as_json and values and "error" not in values[-1]:
            print()
        session.file = file
        try:
            value, code = work(file)
        except Cancelled:
            raise
        except PydumpError as error:
            complain(error.message, error.hint)
            code = error.exit_code
            value = {"path": file, **error_object(error.message, code, error.hint)}
        finally:
            session.file = ""
        values.append(value)
        worst = max(worst, code)
    if as_json:
        render.print_json({"files": values})
    return worst


def refuse_twice(files: Sequence[str]) -> None:
    """Refuse standard input more than once: the second reader would find it empty.

    Raises:
        PlanError: It is named twice.
    """
    if files.count("-") > 1:
        raise PlanError("standard input can be read once", hint="give - once")
