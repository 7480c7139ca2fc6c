"""What decides the bytes of a dump: where all of it is the same, another run writes the same."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import fields
from importlib import metadata
from typing import Any, Final

from pydump.engine.planner import Chosen
from pydump.errors import PydumpError
from pydump.interfaces.image import MemoryImage
from pydump.model.request import Request
from pydump.plugins import GROUP

#: What of a request decides no byte of the output.
BESIDE: Final = frozenset({
    "workers", "executor", "max_rate", "hash", "hash_memory", "dry_run", "force", "sync", "resume",
})  # fmt: skip


def decisive(image: MemoryImage, chosen: Chosen, target: str, batch_size: int) -> Mapping[str, str]:
    """What decides the bytes of a dump of ``image``: what the user calls each, and a text that changes with it.

    Of the input that is how it is opened again (with the name, size and time of change of each file, or what a store
    says of it), and the facts in its headers. How many workers there are, and where, decides nothing.

    Args:
        image: What is read.
        chosen: What the user asks for.
        target: Where the output goes.
        batch_size: Bytes of guest memory that are encoded at once.

    Returns:
        Nothing where nobody can open the memory again, or see that it has changed.
    """
    recipe = image.reopen()
    if recipe is None:
        return {}
    try:
        opened_by = pickle.dumps(recipe)
    except (PydumpError, TypeError, AttributeError, pickle.PicklingError):
        return {}
    guest = image.guest()
    facts = repr((guest.notes, guest.vmcoreinfo, list(guest.memory), guest.arch, guest.dump_level))
    request = {one.name: getattr(chosen.request, one.name) for one in fields(Request) if one.name not in BESIDE}
    request |= {"format": chosen.format.name, "compression": chosen.compressor and chosen.compressor.name}
    request |= {"exclude": chosen.classes, "batch": batch_size}
    request["split"] = request["split"] and target  # which file is which
    producer = chosen.compressor.producer if chosen.compressor else "none"
    found = {entry.dist.name: entry.dist.version for entry in metadata.entry_points(group=GROUP) if entry.dist}
    return {
        "the input": hashlib.sha256(opened_by + facts.encode()).hexdigest(),
        "the options": _canonical(request),
        "the version of pydump, a plugin or a library": _canonical(
            {**found, "pydump-core": metadata.version("pydump-core"), "producer": producer}
        ),
    }


def _canonical(value: Any) -> str:
    """A text of a value that does not depend on the order of sets and mappings."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_canonical(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, frozenset | set):
        return repr(sorted(value))
    return repr(value)
