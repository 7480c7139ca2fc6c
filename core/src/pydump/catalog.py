"""What core does not bring, as data: what to install for a name, and what a file is that nothing here reads.

``catalog.toml`` is read where something is missing, and never otherwise. Its keys:

``[install.ROLE]``
    Name to distribution.
``[urls]``
    What to do with a URL as ``source`` or ``target`` whose scheme no plugin has.
``[[files]]``
    ``begins``: first bytes of the file, in hexadecimal, any of them. ``contains``: bytes that must be within the first
    4096 as well. Then either ``format`` or ``compressor``, whose distribution is to be installed, or ``name``, what it
    is, and ``way``, what to do with it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


class Known(NamedTuple):
    """A file that is known by its first bytes.

    Attributes:
        name: What it is, as "a LiME memory image"; empty where a distribution reads it.
        hint: What to do.
        role: "format" or "compressor", of the distribution that reads it; else empty.
        plugin: The plugin's name for that role; else empty.
    """

    name: str
    hint: str
    role: str = ""
    plugin: str = ""

    @property
    def kind(self) -> str:
        """What it is, as "a LiME memory image" or "an elf file"."""
        article = "an" if self.plugin[:1] in "aeio" else "a"
        return self.name or f"{article} {self.plugin} file"


def distribution_of(role: str, name: str) -> str | None:
    """The distribution whose plugin has ``name`` for ``role``, or None."""
    found: str | None = _catalog()["install"].get(role, {}).get(name)
    return found


def url_hint(side: str) -> str:
    """What to do with a URL as "source" or "target" whose scheme no plugin has."""
    hint: str = _catalog()["urls"][side]
    return hint


def known_file(head: bytes) -> Known | None:
    """What a file that begins with ``head`` is; None where nobody knows."""
    found = None
    for entry in _catalog()["files"]:
        if any(head.startswith(begin) for begin in beginnings(entry)):
            within = bytes.fromhex(entry.get("contains", ""))
            if within and within not in head:
                continue
            found = entry
            if within:  # it says more than the first bytes alone
                break
    if found is None:
        return None
    if "name" in found:
        return Known(found["name"], found["way"])
    role = "format" if "format" in found else "compressor"
    return Known("", f"pip install {distribution_of(role, found[role])}", role, found[role])


def beginnings(entry: dict[str, Any]) -> Iterator[bytes]:
    """The first bytes that one of ``[[files]]`` may have."""
    return map(bytes.fromhex, entry["begins"])


@cache
def _catalog() -> dict[str, Any]:
    import tomllib

    return tomllib.loads(Path(__file__).with_name("catalog.toml").read_text())
