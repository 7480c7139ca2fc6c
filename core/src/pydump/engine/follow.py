"""Follows the kernel log of a guest that runs, past resets of the guest."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from pydump.builtin.local import LocalExecutor
from pydump.engine.facts import complete, require_linux
from pydump.engine.live import Input, is_live
from pydump.engine.open import open_source
from pydump.engine.salvage import filled
from pydump.engine.vmcoreinfo import find_vmcoreinfo
from pydump.errors import PlanError, PydumpError
from pydump.interfaces.arch import SMALLEST_PAGE
from pydump.interfaces.image import MemoryImage
from pydump.interfaces.live import KnowsResets, LiveGuest
from pydump.kernel.follow import Follower
from pydump.kernel.log import Record, read_log
from pydump.kernel.memory import KernelMemory
from pydump.model.findings import LogNotice
from pydump.options import option_fields
from pydump.registry import Registry

#: Seconds between two looks, and between two looks for the log of a guest that was reset.
INTERVAL: Final = 0.5
#: Looks in a row at a log that does not add up: it is read while the guest writes to it.
PATIENCE: Final = 10


def follow(
    spec: str,
    registry: Registry,
    *,
    arch: str | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    pause: Callable[[float], object] = time.sleep,
) -> Generator[Record | LogNotice, None, None]:
    """The records of the kernel's log, the oldest first, and then new ones as the guest logs them, without an end.

    Memory is read where it lies; the guest is not paused. It is asked for its facts at the beginning and after a
    reset, for which QEMU pauses a guest for about a millisecond.

    Args:
        spec: What the user named: a guest that runs.
        registry: What is installed.
        arch: An architecture's name, which overrides what the source states.
        options: Options by plugin name, then by field.
        pause: Waits so many seconds.

    Raises:
        PlanError: It is not a guest that runs, or its memory cannot be read while it runs.
        PydumpError: The guest is gone, or its log cannot be found.
    """
    last: Record | None = None
    while True:
        with _opened(spec, registry, options or {}) as live:
            if not is_live(live):
                raise PlanError(
                    f"{spec} is not a guest that runs", hint="leave --follow out, or name a guest: qmp:SOCKET"
                )
            if live.paused_while_open:
                raise PlanError(f"{spec} is paused while it is read, so it logs nothing new", hint="leave --follow out")
            # A reset ends the capture as an error does: the guest is not expected to be as it was.
            with contextlib.suppress(_ResetError), live.capture(live.view().guest().memory) as image:
                kernel = next(_kernels(image, arch, registry, last), None)
                if kernel is not None:
                    for found in _followed(live, kernel, pause):
                        last = found if isinstance(found, Record) else last
                        yield found
                    yield LogNotice("reset")
                elif last is None:
                    raise PlanError("the guest's log is not found", hint="VMCOREINFO does not lead to it")
                raise _ResetError
        pause(INTERVAL)


class _ResetError(Exception):
    """The guest was reset, or its new kernel has no log yet."""


def _opened(spec: str, registry: Registry, options: Mapping[str, Mapping[str, Any]]) -> contextlib.closing[Input]:
    """The guest, with its memory read where it lies: a source that can pause a guest is told not to."""
    name, colon, _ = spec.partition(":")
    if colon and name in registry.names("source") and not os.path.exists(spec):
        fields = option_fields(registry.source(name).Options)
        running = {field.name: "none" for field in fields if field.name == "pause"}
        options = {**options, name: {**options.get(name, {}), **running}}
    return contextlib.closing(open_source(spec, registry, options))


def _followed(live: LiveGuest, kernel: KernelMemory, pause: Callable[[float], object]) -> Iterator[Record | LogNotice]:
    """The log of one boot; ends when the guest is reset."""
    follower = Follower(kernel)
    resets = live.resets() if isinstance(live, KnowsResets) else 0
    failed = 0
    while True:
        try:
            news = follower.look()
            failed = 0
        except PydumpError:
            failed += 1
            if failed == PATIENCE:
                raise
            news = None
        if news is not None:
            if news.overwritten != 0:
                yield LogNotice("overwritten", news.overwritten)
            yield from news.records
        if news is None or not news.more:
            pause(INTERVAL)
            if isinstance(live, KnowsResets) and live.resets() != resets:
                return


def _kernels(image: MemoryImage, arch: str | None, registry: Registry, last: Record | None) -> Iterator[KernelMemory]:
    """The kernels that may run, the likeliest first, but none whose log has the last record of the boot before.

    Memory outlives a reset: what the kernel before has left there may still look like a kernel.
    """
    stated = image.guest()
    if stated.vmcoreinfo is not None:
        guests = [stated]
    else:
        facts = complete(stated, arch, registry)
        require_linux(facts.guest, "dmesg reads the log of Linux")
        readable = filled(image, facts.guest.page_size or SMALLEST_PAGE)
        found = find_vmcoreinfo(readable, stated.memory, facts.guest.byte_order or "little", executor=LocalExecutor(1))
        guests = [replace(stated, vmcoreinfo=info) for info in found]
    for guest in guests:
        completed = complete(guest, arch, registry)
        try:
            kernel = KernelMemory.of(image, completed.guest, completed.arch)
            if not any(last is not None and replace(record, seq=last.seq) == last for record in read_log(kernel)):
                yield kernel
        except PydumpError:
            if last is None and guest is guests[-1]:
                raise
