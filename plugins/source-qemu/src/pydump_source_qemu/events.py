"""What can happen to a guest of QEMU that somebody waits for."""

from __future__ import annotations

from typing import Final, NamedTuple


class Event(NamedTuple):
    """An event of QEMU's.

    Attributes:
        name: Its name.
        state: The run state that it may lead to, and that lasts.
    """

    name: str
    state: str


#: By their names in ``--on``. Source: qapi/run-state.json.
EVENTS: Final = {"panicked": Event("GUEST_PANICKED", "guest-panicked")}
