"""Text for users and developers is plain English: no archaic word, and no word that the project has retired."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
#: A pattern, and what to write. Source: docs/glossary.md for the words of the field.
RETIRED: Final = {
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bin place of\b": "instead of",
    r"\btells? of\b": "describe, show, report",
    r"\bpart(s|ed|ing) from\b": "differ from",
    r"\bstumbl(e|es|ed|ing)\b": "fail",
    r"\bnone the less\b": "anyway",
    r"\bof one moment\b": "consistent",
    r"\b(stands?|stood|standing|holds?|held) still\b": "is paused, does not change",
    r"\bknown are\b": "available:",
    r"\b(is|are) dear\b": "has a high cost",
    r"\blets? go of\b|\bletting go\b": "close, release",
    r"\btake(s|n)? over as\b": "copy",
    r"(?<!there )\b(is|was|are) no (address|size|number|file|dump|ELF|kdump|directory|name|plugin)\b": "is not a …",
    r"\bas (it|he|she|one) likes\b": "in any form",
    r"\bnobody could tell\b": "would go unnoticed",
    r"\bwhatever becomes\b": "even if",
    r"\bsay --": "add --, use --",
    r"\b(whence|hence|thereof|therein|wherein|lest)\b": "plain words",
    r"\bflaws?\b(?!`)": "defect",
    r"\bit is (all )?in vain\b|\bin vain\b": "without success",
    r"\bput right\b": "fix, correct",
    r"\bvouch(es|ed)?\b": "guarantee",
    r"\bsettles? (the|a|what|how|every|all|it|this)\b|\bsettled guest\b": "complete, decide",
}
TEXTS: Final = [
    path
    for pattern in (
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "docs/**/*.md",
        "changes/*.md",
        "plugins/*/README.md",
        "core/README.md",
        "examples/**/*.md",
    )
    for path in sorted(ROOT.glob(pattern))
    if "_generated" not in path.parts and "_build" not in path.parts
]
CODE: Final = [
    path
    for pattern in ("core/src", "plugins/*/src")
    for room in ROOT.glob(pattern)
    for path in sorted(room.rglob("*.py"))
]


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a text, or the strings and comments of a module, each with its line number."""
    text = path.read_text()
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


@pytest.mark.parametrize("path", TEXTS + CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_is_plain(path: Path) -> None:
    found = [
        f"line {line}: {match[0]!r} (better: {better})"
        for line, text in prose(path)
        for pattern, better in RETIRED.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ]
    assert not found
