"""The files of a dump: one, or a set over which makedumpfile split it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydump.errors import PlanError
from pydump.interfaces.backing import Backing
from pydump.model.memory import Ranges
from pydump_format_kdump.headers import Headers, read_headers
from pydump_format_kdump.layout import PageDesc


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a dump.

    Attributes:
        backing: Its bytes.
        headers: Its headers.
        first: How many pages of the dump come before its own.
        n_pages: How many pages it should hold.
    """

    backing: Backing
    headers: Headers
    first: int = 0
    n_pages: int = 0

    @property
    def descs_end(self) -> int:
        """Where its page_descs end."""
        return self.headers.descs + self.n_pages * PageDesc.nbytes()

    @property
    def cut(self) -> str:
        """The first of its structures that the file does not hold whole, in words, or an empty string."""
        headers = self.headers
        ends = (
            (headers.bitmaps, "the sub header or the notes"),
            (headers.descs, "the bitmaps"),
            (self.descs_end, "the page descriptors"),
        )
        return next((name for end, name in ends if self.backing.size < end), "")


def open_parts(files: Sequence[Backing]) -> tuple[list[Part], Ranges]:
    """Read the headers of all files.

    Returns:
        The parts, in the order of the pages they hold; and the pfns whose part is missing.

    Raises:
        FormatError: The headers of a file make no sense.
        PlanError: The files do not belong together.
    """
    parts = sorted((Part(backing, read_headers(backing)) for backing in files), key=lambda part: part.headers.start_pfn)
    first = next((part for part in parts if part.headers.whole), parts[0]).headers
    if len(parts) == 1 and not first.sub.split:
        return parts, Ranges.empty()
    names = ", ".join(part.backing.path for part in parts)
    at = 0
    missing = []
    held = []
    for part in parts:
        path, headers = part.backing.path, part.headers
        if headers.main != first.main or headers.byte_order != first.byte_order:
            raise PlanError(f"{path} and {parts[0].backing.path} are not parts of one dump")
        if not headers.whole:  # which pages it holds is lost, and so are they
            held.append(replace(part, headers=replace(headers, start_pfn=0, end_pfn=0)))
            continue
        if not headers.sub.split:
            raise PlanError(f"{path} is a whole dump, not a part of one", hint="name it alone")
        if headers.start_pfn < at:
            raise PlanError(f"{path} holds pages that another part holds, too: {names}", hint="name each part once")
        missing.append((at, headers.start_pfn))
        at = headers.end_pfn
        held.append(part)
    missing.append((at, first.max_mapnr))
    return held, Ranges.of(missing)
