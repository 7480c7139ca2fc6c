"""What a filter checks before a page is left out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must hold before a page is left out.

    Attributes:
        name: What is checked, in a few words: "free pages".
        passed: Does it hold?
        detail: What was found, with its numbers.
    """

    name: str
    passed: bool
    detail: str
