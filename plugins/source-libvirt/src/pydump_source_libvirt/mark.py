"""A mark in QEMU, made through libvirt: a pydump is at work on this domain.

See :mod:`pydump_qemu_stream.mark`.
"""

from __future__ import annotations

import contextlib
import os

from pydump.errors import SourceError
from pydump_qemu_stream.mark import NAME, PATH, PROPERTY, TYPE, identity
from pydump_source_libvirt.domain import CommandError, Domain


def found(domain: Domain) -> str | None:
    """The text of the mark, or None where there is none."""
    try:
        return str(domain.monitor("qom-get", path=PATH, property=PROPERTY))
    except CommandError:
        return None


def make(domain: Domain, parent: int) -> None:
    """Make the mark of this process and its parent.

    Raises:
        SourceError: Another pydump was quicker.
    """
    try:
        domain.monitor("object-add", qom_type=TYPE, id=NAME, identity=identity(os.getpid(), parent))
    except CommandError as error:
        if found(domain) is not None:
            raise busy(domain) from None
        raise SourceError(f"QEMU cannot be marked as being captured: {error.why}") from None


def note_limit(domain: Domain, parent: int, limit: int) -> None:
    """Write into the mark what the migration's limit is, in bytes a second, which is changed next."""
    ours = identity(os.getpid(), parent, limit=limit)
    domain.monitor("qom-set", path=PATH, property=PROPERTY, value=ours)


def note_pause(domain: Domain, parent: int) -> None:
    """Write into the mark that the domain is paused, which is done next."""
    domain.monitor("qom-set", path=PATH, property=PROPERTY, value=identity(os.getpid(), parent, paused=True))


def remove(domain: Domain) -> None:
    """Take the mark away, if it is there."""
    with contextlib.suppress(CommandError):
        domain.monitor("object-del", id=NAME)


def busy(domain: Domain) -> SourceError:
    """The error for a mark of a pydump that runs."""
    return SourceError(
        f"another pydump captures the domain {domain.name}",
        hint=f"wait until it has ended; if there is none any more, QMP's object-del takes its mark away: id {NAME!r}",
    )
