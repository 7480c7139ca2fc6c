"""Where a name leads: the only place that knows what ``name:argument``, a URL and a path are.

A name before a colon is a plugin's: lower-case letters, digits and ``_``, or anything before ``://``. In a scheme with
a ``+``, a source may stand before that, and opens the URL behind it: ``libvirt+qemu:///system:vm``. All else is a path,
and so is what exists under just that name: ``vmcore-12:30`` and ``./raw:x`` are files.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from pydump.builtin.storages import DescriptorStorage, FileStorage
from pydump.catalog import distribution_of, url_hint
from pydump.errors import UnknownPluginError
from pydump.interfaces.source import Source
from pydump.interfaces.storage import Storage
from pydump.registry import Registry

#: Source of what stands before ``://``: RFC 3986, 3.1.
_NAME: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://|(?P<name>[a-z][a-z0-9_]*):")


@dataclass(frozen=True, slots=True)
class Stored:
    """A file, an object, a descriptor.

    Attributes:
        storage: What opens it.
        url: What that takes.
    """

    storage: type[Storage]
    url: str

    def beside(self, name: str) -> Stored | None:
        """What is called ``name`` in the same place; None where nothing can be.

        A name that a hostile file states leads nowhere else.
        """
        place, slash, _ = self.url.rpartition("/")
        if issubclass(self.storage, DescriptorStorage) or os.path.basename(name) != name or name in ("", ".", ".."):
            return None
        if not issubclass(self.storage, FileStorage):
            return Stored(self.storage, f"{place}/{name}") if slash else None
        path = os.path.join(os.path.dirname(FileStorage.path(self.url)), name)
        return Stored(FileStorage, FileStorage.url(path)) if os.path.isfile(path) else None


class Named(NamedTuple):
    """What a source plugin opens.

    Attributes:
        source: The plugin.
        argument: What it takes.
    """

    source: type[Source]
    argument: str


def find_source(name: str, registry: Registry) -> Named | tuple[Stored, ...]:
    """What ``name`` leads to: a source plugin's guest, or a stored dump, which may have several parts.

    Raises:
        UnknownPluginError: It is before a colon, and no plugin has it; the hint says what to install.
    """
    if not os.path.lexists(name):
        before = _before(name)
        if before not in registry.names("source"):
            before = before.partition("+")[0]
        if before in registry.names("source"):
            return Named(registry.source(before), name[len(before) + 1 :])
        if name != "-" and "," in name:
            return tuple(_stored(part, registry, ("source", "storage")) for part in name.split(","))
    return (_stored(name, registry, ("source", "storage")),)


def find_stored(name: str, registry: Registry) -> Stored:
    """Where the output, or the file, ``name`` is.

    Raises:
        UnknownPluginError: No storage is called what stands before its colon; the hint says what to install.
    """
    return _stored(name, registry, ("storage",))


def _stored(name: str, registry: Registry, roles: tuple[str, ...]) -> Stored:
    if name == "-":
        return Stored(DescriptorStorage, name)
    before = "" if os.path.lexists(name) else _before(name)
    if before in registry.names("storage"):
        return Stored(registry.storage(before), name)
    if before and not os.path.isdir(os.path.dirname(name) or "\0"):
        raise _unknown(name, before, registry, roles)
    return Stored(FileStorage, FileStorage.url(name))


def _before(name: str) -> str:
    """What stands before the colon, where that can be a plugin's name; else an empty string."""
    match = _NAME.match(name)
    return (match["scheme"] or match["name"]).lower() if match else ""


def _unknown(name: str, before: str, registry: Registry, roles: tuple[str, ...]) -> UnknownPluginError:
    """The error for a name that no plugin of ``roles`` has."""
    known_as = (before, before.partition("+")[0])
    found = (distribution_of(role, one) for role in roles for one in known_as)
    distribution = next(filter(None, found), None)
    if distribution:
        hint = f"pip install {distribution}"
    elif before in registry.names("source") or distribution_of("source", before):
        hint = f"{before} is a source, which is only read; ./{name} is the file of that name"
    elif name[len(before) :].startswith("://"):
        hint = url_hint("source" if "source" in roles else "target")
    else:
        hint = f"./{name} is the file of that name"
    known = sorted({known for role in roles for known in registry.names(role)})
    return UnknownPluginError(" or ".join(roles), before, tuple(known), hint=hint)
