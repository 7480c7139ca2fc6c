"""Chooses, while a guest is paused, what of its memory need not be copied."""

from __future__ import annotations

from dataclasses import replace

from pydump.builtin.local import LocalExecutor
from pydump.engine.exclude import ZERO, LeftOut, classes_of, classified, exclude
from pydump.engine.facts import Facts, stated_facts, with_vmcoreinfo
from pydump.errors import PydumpError
from pydump.interfaces.image import MemoryImage
from pydump.model.memory import Ranges
from pydump.model.request import DEFAULT_FORMAT, Request
from pydump.model.vmcoreinfo import Vmcoreinfo
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
        self._vmcoreinfo: Vmcoreinfo | None = None

    def __call__(self, image: MemoryImage, *, paused: bool) -> Ranges:
        """Choose; nothing where the guest does not say enough, or a check fails. The plan says afterwards why."""
        request, registry = self._request, self._registry
        classes = classes_of(request) - {ZERO}
        least = registry.format(DEFAULT_FORMAT if request.format is None else request.format).format.least_hole
        try:
            guest, arch, _ = stated_facts(image.guest(), request, registry)
            if guest.vmcoreinfo is None and not request.no_vmcoreinfo:
                guest, arch, _ = self._searched(image, paused=paused)
            if not classes or guest.vmcoreinfo is None:
                return Ranges.empty()
            found = classified(image, guest, arch, classes, registry, request.options)
            exclusion = exclude(
                image, guest, arch, classes, registry,
                read_zeros=False, least=least, anyway=request.filter_anyway, left_out=LeftOut(Ranges.empty(), found),
            )  # fmt: skip
        except PydumpError:
            return Ranges.empty()
        if paused:
            self.left_out = LeftOut(exclusion.excluded, found)
        return exclusion.excluded

    def _searched(self, image: MemoryImage, *, paused: bool) -> Facts:
        """The facts, by the VMCOREINFO in guest memory: the search takes long, so it is done while the guest runs."""
        stated, request = image.guest(), replace(self._request, vmcoreinfo=None)
        if not paused:
            alone = LocalExecutor(1)  # only the process that opened a live guest can read it
            self._vmcoreinfo = with_vmcoreinfo(image, stated, request.arch, self._registry, executor=alone).vmcoreinfo
        return stated_facts(replace(stated, vmcoreinfo=self._vmcoreinfo), request, self._registry)
