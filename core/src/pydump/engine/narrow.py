"""Chooses, while a guest is paused, what of its memory need not be copied."""

from __future__ import annotations

from pydump.engine.exclude import ZERO, LeftOut, classified, exclude
from pydump.engine.facts import stated_facts
from pydump.engine.request import Request
from pydump.errors import PydumpError
from pydump.interfaces.image import MemoryImage
from pydump.model.memory import Ranges
from pydump.registry import Registry


class Narrowing:
    """Chooses the pages that a request leaves out, except zero pages: finding those takes as long as copying.

    Args:
        request: What the user asks for.
        registry: What is installed.

    Attributes:
        left_out: What was chosen when the guest was paused; None where nothing could be said.
    """

    def __init__(self, request: Request, registry: Registry) -> None:
        self._request = request
        self._registry = registry
        self.left_out: LeftOut | None = None

    def __call__(self, image: MemoryImage, *, paused: bool) -> Ranges:
        """Choose; nothing where the guest does not say enough, or a check fails. The plan says afterwards why."""
        request, registry = self._request, self._registry
        classes = request.exclude - {ZERO}
        least = registry.format(request.format).format.least_hole
        try:
            guest, arch, _ = stated_facts(image.guest(), request, registry)
            if not classes or guest.vmcoreinfo is None:  # to search memory for one would take too long
                return Ranges.empty()
            found = classified(image, guest, arch, classes, registry)
            exclusion = exclude(
                image, guest, arch, classes, registry,
                read_zeros=False, least=least, anyway=request.filter_anyway, left_out=LeftOut(Ranges.empty(), found),
            )  # fmt: skip
        except PydumpError:
            return Ranges.empty()
        if paused:
            self.left_out = LeftOut(exclusion.excluded, found)
        return exclusion.excluded
