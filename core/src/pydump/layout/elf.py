"""ELF headers, 32 and 64 bit, and the numbers that a core file uses.

Source: System V ABI, chapters 4 and 5; include/uapi/linux/elf.h of the Linux kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydump.layout.struct import U8, U16, U32, U64, Bytes1, Bytes4, Bytes7, Bytes16, Layout

if TYPE_CHECKING:
    from pydump.model.guest import ByteOrder

ELFMAG: Final = b"\x7fELF"  #: What every ELF file begins with.
ELFCLASS32: Final = 1  #: ``ei_class``: headers of 32 bits.
ELFCLASS64: Final = 2  #: ``ei_class``: headers of 64 bits.
ELFDATA2LSB: Final = 1  #: ``ei_data``: little-endian.
ELFDATA2MSB: Final = 2  #: ``ei_data``: big-endian.
EV_CURRENT: Final = 1  #: ``e_version``.
ET_CORE: Final = 4  #: ``e_type``: a core file.
PT_LOAD: Final = 1  #: ``p_type``: memory.
PT_NOTE: Final = 4  #: ``p_type``: notes.
SHT_NULL: Final = 0  #: ``sh_type``: none.
SHT_PROGBITS: Final = 1  #: ``sh_type``: bytes of the file.
SHT_STRTAB: Final = 3  #: ``sh_type``: names of sections.
SHT_NOBITS: Final = 8  #: ``sh_type``: takes no room in the file.
#: e_phnum's value when the true count stands in section header 0's sh_info.
PN_XNUM: Final = 0xFFFF
#: e_flags of a dump that is incomplete: a segment may reach past the file's end, and what lies there is lost.
#: Source: makedumpfile's IMPLEMENTATION, "incomplete dump".
DUMP_ELF_INCOMPLETE: Final = 1


class Ident(Layout):
    """e_ident, the bytes that mean the same in every ELF file."""

    magic: Bytes4 = ELFMAG
    ei_class: Bytes1 = b"\0"
    ei_data: Bytes1 = b"\0"
    ei_version: Bytes1 = b"\1"
    ei_osabi: Bytes1 = b"\0"
    ei_abiversion: Bytes1 = b"\0"
    ei_pad: Bytes7 = b""


class Elf64Ehdr(Layout):
    """Elf64_Ehdr."""

    e_ident: Bytes16 = b""
    e_type: U16 = 0
    e_machine: U16 = 0
    e_version: U32 = 0
    e_entry: U64 = 0
    e_phoff: U64 = 0
    e_shoff: U64 = 0
    e_flags: U32 = 0
    e_ehsize: U16 = 0
    e_phentsize: U16 = 0
    e_phnum: U16 = 0
    e_shentsize: U16 = 0
    e_shnum: U16 = 0
    e_shstrndx: U16 = 0


class Elf32Ehdr(Layout):
    """Elf32_Ehdr."""

    e_ident: Bytes16 = b""
    e_type: U16 = 0
    e_machine: U16 = 0
    e_version: U32 = 0
    e_entry: U32 = 0
    e_phoff: U32 = 0
    e_shoff: U32 = 0
    e_flags: U32 = 0
    e_ehsize: U16 = 0
    e_phentsize: U16 = 0
    e_phnum: U16 = 0
    e_shentsize: U16 = 0
    e_shnum: U16 = 0
    e_shstrndx: U16 = 0


class Elf64Phdr(Layout):
    """Elf64_Phdr."""

    p_type: U32 = 0
    p_flags: U32 = 0
    p_offset: U64 = 0
    p_vaddr: U64 = 0
    p_paddr: U64 = 0
    p_filesz: U64 = 0
    p_memsz: U64 = 0
    p_align: U64 = 0


class Elf32Phdr(Layout):
    """Elf32_Phdr; p_flags stands elsewhere than in Elf64_Phdr."""

    p_type: U32 = 0
    p_offset: U32 = 0
    p_vaddr: U32 = 0
    p_paddr: U32 = 0
    p_filesz: U32 = 0
    p_memsz: U32 = 0
    p_flags: U32 = 0
    p_align: U32 = 0


class Elf64Shdr(Layout):
    """Elf64_Shdr."""

    sh_name: U32 = 0
    sh_type: U32 = 0
    sh_flags: U64 = 0
    sh_addr: U64 = 0
    sh_offset: U64 = 0
    sh_size: U64 = 0
    sh_link: U32 = 0
    sh_info: U32 = 0
    sh_addralign: U64 = 0
    sh_entsize: U64 = 0


class Elf32Shdr(Layout):
    """Elf32_Shdr."""

    sh_name: U32 = 0
    sh_type: U32 = 0
    sh_flags: U32 = 0
    sh_addr: U32 = 0
    sh_offset: U32 = 0
    sh_size: U32 = 0
    sh_link: U32 = 0
    sh_info: U32 = 0
    sh_addralign: U32 = 0
    sh_entsize: U32 = 0


class Elf64Sym(Layout):
    """Elf64_Sym."""

    st_name: U32 = 0
    st_info: U8 = 0
    st_other: U8 = 0
    st_shndx: U16 = 0
    st_value: U64 = 0
    st_size: U64 = 0


class Elf32Sym(Layout):
    """Elf32_Sym."""

    st_name: U32 = 0
    st_value: U32 = 0
    st_size: U32 = 0
    st_info: U8 = 0
    st_other: U8 = 0
    st_shndx: U16 = 0


class Nhdr(Layout):
    """Elf32_Nhdr and Elf64_Nhdr, which are the same."""

    n_namesz: U32 = 0
    n_descsz: U32 = 0
    n_type: U32 = 0


#: Bits, file header, program header and section header of each ``ei_class``.
CLASSES: Final[
    dict[int, tuple[int, type[Elf32Ehdr | Elf64Ehdr], type[Elf32Phdr | Elf64Phdr], type[Elf32Shdr | Elf64Shdr]]]
] = {
    ELFCLASS32: (32, Elf32Ehdr, Elf32Phdr, Elf32Shdr),
    ELFCLASS64: (64, Elf64Ehdr, Elf64Phdr, Elf64Shdr),
}
#: The byte order of each ``ei_data``.
ORDERS: Final[dict[int, ByteOrder]] = {ELFDATA2LSB: "little", ELFDATA2MSB: "big"}
