"""Target descriptions of gdb stubs, and the registers of a CPU by them."""

from __future__ import annotations

from pydump.errors import SourceError
from pydump_source_gdb.description import ROOT, read_description
from pydump_source_gdb.ram import tree_ram
from pydump_source_gdb.registers import KNOWN, byte_order_of, descriptors, pydump_registers

#: Separates the documents of one input: the first is target.xml, others are named by their place.
BETWEEN = b"\n-- document --\n"


def one(data: bytes) -> None:
    """Read it as documents, as a device tree, and as registers."""
    tree_ram(data)
    descriptors(data.decode("utf-8", "replace"), 1)
    documents = data.split(BETWEEN)

    def fetch(name: str) -> bytes:
        try:
            return documents[0 if name == ROOT else int(name)]
        except (ValueError, IndexError):
            raise SourceError(f"there is no {name}") from None

    found = read_description(fetch)
    names = KNOWN.get(found.architecture)
    if names is not None:
        raw = {register.name: (data * register.size)[: register.size] for register in found.registers}
        pydump_registers(names, raw, byte_order_of(names, raw))
