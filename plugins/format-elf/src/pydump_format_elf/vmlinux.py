"""A kernel's own ELF file: its build id and its symbols. pyelftools reads the headers."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection

from pydump.errors import FormatError, PydumpError
from pydump.interfaces.backing import Backing
from pydump.interfaces.format import KernelFile
from pydump.layout.elf import Elf32Sym, Elf64Sym
from pydump.model.guest import ByteOrder

#: st_shndx of a symbol that is defined elsewhere.
SHN_UNDEF: Final = 0


class _Stream(io.RawIOBase):
    """A file as pyelftools wants it."""

    def __init__(self, backing: Backing) -> None:
        self._backing = backing
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._backing.size}[whence])
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        size = min(len(buffer), max(0, self._backing.size - self._at))
        if size:
            self._backing.read_into(self._at, memoryview(buffer)[:size])
        self._at += size
        return size


class Vmlinux(KernelFile):
    """A ``vmlinux`` or a file of its symbols.

    Raises:
        FormatError: It is damaged, or has no symbols.
    """

    def __init__(self, backing: Backing) -> None:
        self.path = backing.path
        with self._damage():
            elf = ELFFile(io.BufferedReader(_Stream(backing), 1 << 16))
            self.build_id = next((self._build_id(s) for s in elf.iter_sections() if isinstance(s, NoteSection)), None)
            table = elf.get_section_by_name(".symtab")
            if table is None:
                raise FormatError(self.path, "it has no symbols", hint="name a vmlinux that was not stripped")
            order: ByteOrder = "little" if elf.little_endian else "big"
            dtype = (Elf64Sym if elf.elfclass == 64 else Elf32Sym).dtype(order)
            data = table.data()
            self._symbols = np.frombuffer(data, dtype, len(data) // dtype.itemsize)
            self._names: bytes = elf.get_section(table["sh_link"]).data()

    @contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except PydumpError:
            raise
        except Exception as error:  # whatever damaged headers make of pyelftools
            raise FormatError(self.path, f"it cannot be read: {error or type(error).__name__}") from None

    def _build_id(self, section: NoteSection) -> str | None:
        return next((note["n_desc"] for note in section.iter_notes() if note["n_type"] == "NT_GNU_BUILD_ID"), None)

    def symbol(self, name: str) -> int | None:
        # A name can be the end of another one in the table of names.
        wanted, places, at = name.encode() + b"\0", [], -1
        while (at := self._names.find(wanted, at + 1)) >= 0:
            places.append(at)
        found = np.isin(self._symbols["st_name"], places) & (self._symbols["st_shndx"] != SHN_UNDEF)
        where = np.flatnonzero(found)
        return int(self._symbols["st_value"][where[0]]) if name and len(where) else None
