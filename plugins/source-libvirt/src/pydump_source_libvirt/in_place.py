"""Read the memory of a domain where it lies on this host."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Final

from pydump.errors import SourceError
from pydump.interfaces.image import MemoryImage
from pydump.model.memory import MemoryMap
from pydump_qemu_stream.captured import Captured, Readable
from pydump_qemu_stream.elf_head import Head
from pydump_qemu_stream.host import Host, Layout
from pydump_qemu_stream.process import ImpossibleError
from pydump_source_libvirt.domain import Domain
from pydump_source_libvirt.where import Fetched, process_of

#: libvirt reads this much, at most, of what this process cannot: firmware, which is never in shared memory.
MAX_REST: Final = 64 << 20


def in_place(
    domain: Domain,
    view: MemoryMap,
    facts: Callable[[], Head],
    resources: contextlib.ExitStack,
    warnings: Sequence[str],
) -> MemoryImage:
    """The memory of a domain, which is read when it is encoded.

    Args:
        domain: The domain.
        view: Where its memory is now, as it seems.
        facts: Gives its facts, and pauses it until memory has been read, or not. It is not called where memory
            cannot be read.
        resources: Closes what is opened, at the end.
        warnings: What the user should know; more may come.

    Raises:
        SourceError: Memory cannot be read here.
    """
    try:
        with process_of(domain) as process:
            host = resources.enter_context(contextlib.closing(Host(process, domain.human)))
            _refuse_rest(host.locate(view, "auto"))
            head = facts()
            _refuse_rest(layout := host.locate(head.guest.memory, "auto"))
    except ImpossibleError as error:
        hint = "; or ".join(filter(None, (error.hint, "take --libvirt-pause snapshot or copy")))
        raise SourceError(f"the memory of the domain cannot be read here: {error.message}", hint=hint) from None
    pieces: list[tuple[int, int, Readable]] = [(region.paddr, region.end, region) for region in layout.regions]
    if layout.rest:
        fetched = Fetched(domain, layout.rest)
        pieces += [(block.paddr, block.end, fetched) for block in layout.rest]
    return Captured(head.guest, pieces, warnings=warnings)


def _refuse_rest(layout: Layout) -> None:
    if layout.rest_size > MAX_REST:
        size = layout.rest_size >> 20
        raise ImpossibleError(f"{size} MiB are in no file that this user can open", hint="run pydump as root")
