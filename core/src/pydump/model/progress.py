"""How far a run is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        phase: What is being done: "dump", "verify", "compare".
        done: Bytes of guest memory done.
        total: Bytes of guest memory in all.
    """

    phase: str
    done: int
    total: int


#: Receives progress, at most some ten times a second and once at the end of each phase.
ProgressCallback = Callable[[Progress], None]


#: "captured": nothing of the run concerns a live guest any more, which runs again if it ran before.
#: "written": the output is complete, and there.
Milestone = Literal["captured", "written"]
