"""What lies around a file of memory: flattened streams and compression, in any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pydump.builtin.files import unpacked
from pydump.builtin.flattened import FlattenedBacking, is_flattened
from pydump.builtin.spool import HEAD_SIZE, Packing, packing_of
from pydump.errors import SourceError
from pydump.interfaces.backing import Backing

#: Flattened streams, and compressed files between two of them, that are taken off.
MAX_WRAPPINGS: Final = 4


def unwrapped(backing: Backing, accept: Callable[[bytes], object], packings: Sequence[Packing]) -> Backing:
    """The file that flattened streams and compressed files hold; ``backing`` itself where there are none.

    Args:
        backing: Closed where this fails; else the result closes it.
        accept: Called with the first bytes of a compressed file's content before the rest is copied; raises if they
            are of no use.
        packings: What is unpacked.

    Raises:
        FormatError: A flattened stream has no header that can be read, or no records.
        SourceError: The file cannot be read, there is no room for what is unpacked, or it is wrapped too often.
    """
    for _ in range(MAX_WRAPPINGS):
        try:
            head = backing.read(0, min(HEAD_SIZE, backing.size))
            flattened = FlattenedBacking(backing) if is_flattened(head) else None
        except BaseException:
            backing.close()
            raise
        if flattened is not None:
            backing = flattened
        elif packing_of(head, packings) is not None:
            backing = unpacked(backing, accept, packings)
        else:
            return backing
    backing.close()
    raise SourceError(
        f"{backing.path} holds flattened or compressed files in each other, more than {MAX_WRAPPINGS} deep",
        hint="unpack it first",
    )
