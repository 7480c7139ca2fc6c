"""Choose the way to guest memory, by the options and by what the host offers.

Nothing here speaks to QEMU or does anything to the guest.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from pydump.errors import PlanError, SourceError
from pydump.model.memory import Ranges
from pydump_qemu_stream.host import Layout
from pydump_qemu_stream.process import ImpossibleError
from pydump_source_qemu.options import QemuOptions

Way = Literal["in place", "copy", "stream", "snapshot"]
#: With --pause none QEMU may pause the guest to send so much: firmware, which is never in the memory backend.
MAX_REST: Final = 64 << 20
#: What a snapshot costs.
ALLOCATES: Final = "a snapshot makes the host allocate {} MiB for the guest's shared memory, for good"

_log = logging.getLogger("pydump.qmp")


class Offers(Protocol):
    """What the host offers. A question is asked only where its answer matters."""

    def layout(self) -> Layout:
        """Where guest memory lies on this host.

        Raises:
            ImpossibleError: It cannot be reached in the way that the user wants.
        """
        ...

    def may_leave_out(self, layout: Layout) -> Ranges:
        """What of memory need not be captured, as it looks while the guest runs."""
        ...

    def must_not_dump(self) -> bool:
        """Whether a snapshot can be taken, and a dump of QEMU's, which has the registers, does harm or is refused."""
        ...

    def shared(self) -> int:
        """Bytes of guest memory that are shared and not allocated in advance."""
        ...

    def spare_memory(self) -> int:
        """Bytes that this host can spare."""
        ...

    def why_no_room(self, size: int) -> str | None:
        """Why there is no room for a copy of ``size`` bytes, or None where there is."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """A way to guest memory.

    Attributes:
        way: "in place" reads memory where it lies while it is encoded, "copy" copies it while the guest is paused,
            "stream" has QEMU send it, "snapshot" has QEMU send it while the guest runs on.
        layout: Where memory lies, as far as it can be said before the guest is paused; None for the last two ways.
        room: What a copy needs room for.
        runs_on: Whether the guest runs on while memory is read in place.
        cautions: What the capture costs, to be said while it can still be interrupted, a line each.
        warnings: What is other than the user may expect, a line each.
    """

    way: Way
    layout: Layout | None = None
    room: Ranges = field(default_factory=Ranges.empty)
    runs_on: bool = False
    cautions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def refuse_pairs(options: QemuOptions) -> None:
    """Refuse options that contradict each other, or of which one has no effect, whatever the guest and the host are.

    Raises:
        PlanError: There are such options.
    """
    pause, access = options.pause, options.access
    if pause == "none" and access == "stream":
        raise PlanError("QEMU pauses the guest while it streams: --pause none needs --qemu-access shared or process")
    if pause == "snapshot" and access not in ("auto", "stream"):
        raise PlanError("--qemu-access has no effect on --pause snapshot", hint="leave --qemu-access out")
    given = {"scratch": bool(options.scratch), "memory-limit": options.memory_limit, "timeout": options.timeout}
    if pause == "none" and (idle := next((f"--{name}" for name, value in given.items() if value), "")):
        raise PlanError(f"{idle} has no effect on --pause none", hint=f"leave {idle} out")


def choose(options: QemuOptions, running: bool, offers: Offers) -> Choice:
    """Choose the way.

    Args:
        options: What the user wants.
        running: Whether the guest runs.
        offers: What the host offers.

    Raises:
        PlanError: The options contradict each other.
        ImpossibleError: The way that the user wants is not there.
        SourceError: There is no room for the copy that the user wants.
    """
    refuse_pairs(options)
    pause, access = options.pause, options.access
    cautions: tuple[str, ...] = ()
    if pause == "auto" and access == "auto" and running and offers.must_not_dump():
        size = offers.shared()
        return Choice("snapshot", cautions=(ALLOCATES.format(f"up to {size >> 20}"),) if size else ())
    if pause == "snapshot" and running:
        layout, cautions = _rather_copied(options, offers)
        if layout is None:
            return Choice("snapshot", cautions=cautions)
    else:
        layout = _reached(options, running, offers)
        if layout is None:
            return Choice("stream")
    if running and pause == "full" and options.scratch and not layout.rest_size:
        raise PlanError("--scratch has no effect on --pause full: nothing is copied", hint="leave --scratch out")
    if layout.allocates:
        cost = (
            f"reading the guest's shared memory makes the host allocate up to {layout.allocates >> 20} MiB for it, "
            "for good: this user cannot see which of it was never written to, root can"
        )
        cautions = (*cautions, cost)
    if not running or pause in ("none", "full"):
        return Choice("in place", layout, runs_on=running and pause == "none", cautions=cautions)
    room = Ranges.of((start, end) for _, start, end in layout.data(offers.may_leave_out(layout)))
    why_not = offers.why_no_room(room.size + layout.rest_size)
    if why_not is None:
        return Choice("copy", layout, room, cautions=cautions)
    if pause == "copy" or (pause == "auto" and options.scratch):
        raise SourceError(f"no room for a copy of guest memory: {why_not}", hint="--scratch DIR, or --pause full")
    paused = f"no room for a copy, so the guest stays paused for the whole dump: {why_not}"
    return Choice("in place", layout, cautions=cautions, warnings=(paused,))


def _rather_copied(options: QemuOptions, offers: Offers) -> tuple[Layout | None, tuple[str, ...]]:
    """Where memory lies if copying it costs the host less memory than a snapshot, else None; and what to warn of.

    QEMU reads all memory before a snapshot. Where that is shared, the host allocates what was never written to, and
    keeps it as long as the guest lives. Private memory costs nothing: it gets the kernel's page of zeros.
    """
    most = offers.shared()
    if not most:
        return None, ()
    if options.access == "stream":
        return None, (ALLOCATES.format(f"up to {most >> 20}"),)
    try:
        layout = offers.layout()
    except ImpossibleError as error:
        _log.info("%s", error.message)
        return None, (ALLOCATES.format(f"up to {most >> 20}"),)
    data = sum(end - start for _, start, end in layout.data())
    holes = layout.holes()
    if data <= holes or holes > offers.spare_memory():
        return layout, (f"{ALLOCATES.format(holes >> 20)}, so {data >> 20} MiB are copied instead",)
    return None, ((ALLOCATES.format(holes >> 20),) if holes else ())


def _reached(options: QemuOptions, running: bool, offers: Offers) -> Layout | None:
    """Where memory lies on this host; None if only QEMU can send it.

    Raises:
        ImpossibleError: The way that the user wants is not there, or none that leaves the guest running.
    """
    if options.access == "stream":
        return None
    try:
        layout = offers.layout()
        if running and options.pause == "none" and layout.rest_size > MAX_REST:
            raise ImpossibleError(f"QEMU pauses the guest to send {layout.rest_size >> 20} MiB that are not shared")
        return layout
    except ImpossibleError as error:
        if options.pause == "none":
            raise
        if options.access != "auto":
            hint = "; or ".join(filter(None, (error.hint, "take --qemu-access stream")))
            raise ImpossibleError(error.message, hint=hint) from None
        _log.info("QEMU has to send memory: %s", error.message)
        return None
