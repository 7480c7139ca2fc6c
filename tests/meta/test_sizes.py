"""A module holds one idea: its size, that of its classes and of its functions are bounded.

What is longer has its reason beside it: a comment ``# Long: why`` above the class or function, or the module's code.
Docstrings and signatures do not count in a function: a signature may declare many options.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
MODULE, CLASS, FUNCTION = 400, 300, 60
MODULES: Final = sorted(
    path
    for pattern in ("core/src", "plugins/*/src", "examples/*/src")
    for room in ROOT.glob(pattern)
    for path in room.rglob("*.py")
)


def too_long(text: str) -> Iterator[str]:
    """What is too long in a module, and has no reason beside it."""
    lines = text.splitlines()
    tree = ast.parse(text)
    first = next((node.lineno for node in tree.body if not isinstance(node, ast.Expr)), 1)
    if len(lines) > MODULE and not any(line.startswith("# Long: ") for line in lines[: first - 1]):
        yield f"the module has {len(lines)} lines"
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        assert node.end_lineno is not None
        begin = node.lineno
        if not isinstance(node, ast.ClassDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            begin = body[0].lineno if body else node.end_lineno
        size = node.end_lineno - begin + 1
        top = min([node.lineno, *(one.lineno for one in node.decorator_list)])
        reason = top >= 2 and lines[top - 2].strip().startswith("# Long: ")
        if size > (CLASS if isinstance(node, ast.ClassDef) else FUNCTION) and not reason:
            yield f"line {node.lineno}: {node.name} has {size} lines"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_longer_than_one_idea(path: Path) -> None:
    assert list(too_long(path.read_text())) == []


def test_what_is_too_long_is_found() -> None:
    body = "    x = 1\n" * (FUNCTION + 1)
    assert list(too_long(f"def f() -> None:\n{body}")) == ["line 1: f has 61 lines"]
    assert list(too_long(f"# Long: it is a table\ndef f() -> None:\n{body}")) == []
    assert list(too_long("class C:\n" + "    x = 1\n" * CLASS)) == ["line 1: C has 301 lines"]
    assert list(too_long("x = 1\n" * (MODULE + 1))) == ["the module has 401 lines"]
    assert list(too_long('"""A module."""\n\n# Long: it is a table\n\nimport x\n' + "x = 1\n" * MODULE)) == []
