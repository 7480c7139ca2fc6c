"""VMCOREINFO: the text in which a Linux kernel describes itself to dump tools.

Source: Documentation/admin-guide/kdump/vmcoreinfo.rst of the Linux kernel. Lines are ``KEY=VALUE`` or
``KIND(name)=VALUE``; SYMBOL is hexadecimal without a prefix, SIZE, OFFSET and LENGTH are decimal, NUMBER is signed
decimal on some architectures (x86_64's phys_base) and 0x-hexadecimal on others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

#: Bytes of the text that are read: the kernel keeps it in one page, and no kernel has larger ones.
MAX_TEXT: Final = 64 << 10
#: The largest size and offset that are believed; struct pglist_data has some 200 KiB.
MAX_SIZE: Final = 1 << 24
#: The largest array length that is believed; mem_section has 2**21 elements on riscv64.
MAX_LENGTH: Final = 1 << 24
#: A number as kernels print it: at most 64 bits, with or without a sign.
NUMBER: Final = re.compile(r"([+-]?)(0[xX])?([0-9a-fA-F]{1,20})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Vmcoreinfo:
    """The text and its entries.

    Attributes:
        text: The bytes as the kernel wrote them. Entries are read from the first 64 KiB.
    """

    text: bytes
    _entries: dict[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        entries = {}
        for line in self.text[:MAX_TEXT].rstrip(b"\0").decode("utf-8", "replace").split("\n"):
            key, found, value = line.partition("=")
            if found:
                entries[key] = value
        object.__setattr__(self, "_entries", entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def get(self, key: str) -> str | None:
        """The value of ``key`` (``"OSRELEASE"``, ``"SYMBOL(_stext)"``) as it stands, or None."""
        return self._entries.get(key)

    def keys(self) -> tuple[str, ...]:
        """All keys, in the text's order."""
        return tuple(self._entries)

    def symbol(self, name: str) -> int | None:
        """The address of a kernel symbol, or None."""
        return self._int(f"SYMBOL({name})", 16)

    def number(self, name: str) -> int | None:
        """A NUMBER, signed; ``0x…`` is hexadecimal and anything else decimal."""
        return self._int(f"NUMBER({name})", 10)

    def size(self, name: str) -> int | None:
        """``sizeof`` a kernel type in bytes, or None where it is not stated or cannot be."""
        return self._count(f"SIZE({name})", MAX_SIZE)

    def offset(self, name: str) -> int | None:
        """The offset of ``struct.member`` in bytes, or None where it is not stated or cannot be."""
        return self._count(f"OFFSET({name})", MAX_SIZE)

    def length(self, name: str) -> int | None:
        """The number of elements of a kernel array, or None where it is not stated or cannot be."""
        return self._count(f"LENGTH({name})", MAX_LENGTH)

    def hexadecimal(self, key: str) -> int | None:
        """The value of a plain key that the kernel writes in hexadecimal without a prefix (KERNELOFFSET)."""
        return self._int(key, 16)

    @property
    def osrelease(self) -> str | None:
        """The kernel's release, as ``uname -r`` prints it."""
        return self.get("OSRELEASE")

    @property
    def page_size(self) -> int | None:
        """The guest kernel's page size in bytes, where it is one."""
        size = self._int("PAGESIZE", 10)
        return size if size is not None and 512 <= size <= 1 << 20 and size & (size - 1) == 0 else None

    def _count(self, key: str, most: int) -> int | None:
        """The number behind ``key``, which is 0 to ``most``; else None."""
        value = self._int(key, 10)
        return value if value is not None and 0 <= value <= most else None

    def _int(self, key: str, base: int) -> int | None:
        """The number behind ``key``; None where there is none, or it is not one of 64 bits."""
        match = NUMBER.fullmatch(self._entries.get(key, ""))
        if match is None:
            return None
        sign, prefix, digits = match.groups()
        try:
            value = int(digits, 16 if prefix else base)
        except ValueError:  # hexadecimal digits where decimal ones belong
            return None
        if sign == "-":
            return -value if value <= 1 << 63 else None
        return value if value < 1 << 64 else None
