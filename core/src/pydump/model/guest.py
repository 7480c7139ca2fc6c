"""What a source knows of a guest, and what a plugin completes before a dump is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pydump.model.memory import MemoryMap
from pydump.model.note import Note
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump.model.windows import WindowsFacts

#: Of the guest, and so of everything in its dump.
ByteOrder = Literal["little", "big"]


@dataclass(frozen=True, slots=True)
class Utsname:
    """The guest kernel's ``struct new_utsname``; a field that is not known is empty.

    Attributes:
        sysname: ``Linux``.
        nodename: The guest's host name.
        release: Of the kernel, as ``6.1.0-50-amd64``.
        version: When and how it was built.
        machine: What ``uname -m`` says: ``x86_64``.
        domainname: The NIS domain, mostly ``(none)``.
    """

    sysname: str = ""
    nodename: str = ""
    release: str = ""
    version: str = ""
    machine: str = ""
    domainname: str = ""


@dataclass(frozen=True, slots=True)
class Cpu:
    """The registers of one virtual CPU.

    Attributes:
        index: Its place among the guest's CPUs, from 0.
        registers: Register name, as in the architecture's table, to value.
    """

    index: int
    registers: Mapping[str, int]


class SectionData(Protocol):
    """The content of a section: ``bytes``, or what is read from a file when it is wanted."""

    def __len__(self) -> int: ...

    def __getitem__(self, span: slice, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Section:
    """An ELF section that an architecture adds to a dump.

    Attributes:
        name: Its name.
        type: sh_type.
        data: Its content.
        flags: sh_flags.
        addr: sh_addr.
        info: sh_info.
        entsize: sh_entsize.
    """

    name: str
    type: int
    data: SectionData
    flags: int = 0
    addr: int = 0
    info: int = 0
    entsize: int = 0


@dataclass(frozen=True, slots=True)
class Guest:
    """The facts of a guest. None means that nobody said.

    Attributes:
        memory: Where RAM lies.
        arch: Name of the architecture plugin.
        machine: ELF e_machine.
        byte_order: Of the guest and of every number in its dump.
        elf_class: 32 or 64.
        page_size: The guest kernel's page size in bytes.
        phys_base: Physical address the kernel is linked against, signed; what it means is the architecture's.
        notes: All notes but VMCOREINFO, in the file's order and byte order.
        cpus: Registers that the source holds in a form of its own; notes are made of them.
        vmcoreinfo: The guest kernel's VMCOREINFO.
        windows: The facts of a guest that runs Windows, which has a crash dump's header instead of VMCOREINFO.
        utsname: The guest kernel's names.
        n_cpus: Number of CPUs, or None when it follows from the notes.
        sections: ELF sections that belong to the dump.
        dump_level: What the source's maker left out, as makedumpfile's bits (1 zero, 2 and 4 cache, 8 user, 16 free).
        excluded_vmemmap: Did it leave out the page structs of pages that it left out (makedumpfile's -e)?
        placed: Whether somebody says where RAM lies; a file of bare memory alone leaves open what is behind a hole.
    """

    memory: MemoryMap
    arch: str | None = None
    machine: int | None = None
    byte_order: ByteOrder | None = None
    elf_class: int | None = None
    page_size: int | None = None
    phys_base: int | None = None
    notes: tuple[Note, ...] = ()
    cpus: tuple[Cpu, ...] = ()
    vmcoreinfo: Vmcoreinfo | None = None
    utsname: Utsname = field(default_factory=Utsname)
    n_cpus: int | None = None
    sections: tuple[Section, ...] = ()
    dump_level: int = 0
    excluded_vmemmap: bool = False
    placed: bool = True
    windows: WindowsFacts | None = None
