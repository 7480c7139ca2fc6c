"""A drgn program on guest memory in any container that pydump reads.

drgn gets an ELF file that has notes and no memory. From it drgn learns the kernel and the registers of each CPU. All
memory is read through pydump, by physical and by virtual address: what was left out of a dump, or cannot be read, is a
fault that drgn reports.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from pydump.errors import PlanError, PydumpError, ReadError
from pydump.kernel.memory import KernelMemory, PhysicalMemory
from pydump.layout.elf import (
    CLASSES,
    ELFMAG,
    ET_CORE,
    EV_CURRENT,
    ORDERS,
    PT_LOAD,
    PT_NOTE,
    Ident,
)
from pydump.layout.notes import pack_notes
from pydump.model.guest import Guest
from pydump.model.note import VMCOREINFO_NAME, Note

if TYPE_CHECKING:
    import drgn

#: Bytes that are read at once, and how many such blocks are kept.
BLOCK: Final = 1 << 14
KEPT: Final = 1024


def drgn_program(
    kernel: KernelMemory, physical: PhysicalMemory, guest: Guest, *, changes: bool = False
) -> drgn.Program:
    """A program whose memory is read through pydump.

    It has no debugging symbols yet: ``program.load_debug_info([vmlinux])`` loads them.

    Args:
        kernel: The kernel's memory by virtual address.
        physical: Guest memory by physical address.
        guest: Its facts, complete.
        changes: Whether memory may change, so that nothing may be kept.

    Raises:
        PlanError: drgn is not installed, or the guest has no VMCOREINFO, by which drgn finds its way.
        PydumpError: drgn does not take the guest.
    """
    try:
        import drgn
    except ImportError:
        raise PlanError("drgn is not installed", hint="pip install drgn") from None
    if guest.vmcoreinfo is None:
        raise PlanError("the guest has no VMCOREINFO, which drgn needs", hint="--vmcoreinfo of pydump dump adds one")
    assert guest.elf_class
    program = drgn.Program()
    file = os.memfd_create("pydump", os.MFD_CLOEXEC)
    try:
        with open(file, "wb", closefd=False) as out:
            out.write(headers(guest))
        program.set_core_dump(file)
    except (ValueError, OSError, LookupError) as error:
        raise PydumpError(f"drgn does not take this guest: {error}") from None
    finally:
        os.close(file)
    block = 0 if changes else BLOCK
    read = _reader(physical, drgn.FaultError, block)
    for ram in guest.memory:
        program.add_memory_segment(ram.paddr, ram.size, read, physical=True)
    program.add_memory_segment(0, (1 << guest.elf_class) - 1, _reader(kernel, drgn.FaultError, block))
    return program


def headers(guest: Guest) -> bytes:
    """An ELF core file with the guest's notes, and segments without content."""
    assert guest.byte_order and guest.elf_class and guest.vmcoreinfo
    ei_class = next(number for number, (bits, *_) in CLASSES.items() if bits == guest.elf_class)
    ei_data = next(number for number, order in ORDERS.items() if order == guest.byte_order)
    _, ehdr, phdr, _ = CLASSES[ei_class]
    notes = pack_notes((*guest.notes, Note(VMCOREINFO_NAME, 0, guest.vmcoreinfo.text)), guest.byte_order)
    blocks = list(guest.memory)
    at = ehdr.nbytes() + (1 + len(blocks)) * phdr.nbytes()
    head = ehdr(
        e_ident=Ident(ELFMAG, bytes([ei_class]), bytes([ei_data])).pack(guest.byte_order),
        e_type=ET_CORE,
        e_machine=guest.machine or 0,
        e_version=EV_CURRENT,
        e_phoff=ehdr.nbytes(),
        e_ehsize=ehdr.nbytes(),
        e_phentsize=phdr.nbytes(),
        e_phnum=1 + len(blocks),
    )
    parts = [head.pack(guest.byte_order)]
    parts.append(phdr(p_type=PT_NOTE, p_offset=at, p_filesz=len(notes), p_memsz=len(notes)).pack(guest.byte_order))
    end = at + len(notes)
    for block in blocks:
        segment = phdr(p_type=PT_LOAD, p_offset=end, p_paddr=block.paddr, p_memsz=block.size)
        parts.append(segment.pack(guest.byte_order))
    return b"".join((*parts, notes))


def _reader(
    memory: PhysicalMemory | KernelMemory, fault: type[Exception], block: int
) -> Callable[[int, int, int, bool], bytes]:
    """What drgn calls to read memory.

    Args:
        memory: Guest memory.
        fault: What it expects to be raised.
        block: Bytes of the blocks that are kept, or 0 to keep none.
    """

    @lru_cache(maxsize=KEPT)
    def kept(number: int) -> bytes:
        return memory.read(number * block, block)

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        if block and address // block == (address + count - 1) // block:
            try:
                return kept(address // block)[address % block :][:count]
            except ReadError:
                pass  # a part of the block is not there; what is asked for may be
        try:
            return memory.read(address, count)
        except ReadError as error:
            raise fault(error.message, address) from None

    return read
