"""The numbers of a migration stream. All numbers in a stream are big-endian.

Source: migration/{savevm,ram,vmstate}.c of QEMU 5.2 to 10.0, hw/s390x/s390-stattrib.c, hw/ppc/spapr.c.
"""

from __future__ import annotations

from typing import Final

QEMU_VM_FILE_MAGIC: Final = 0x5145564D
QEMU_VM_FILE_VERSION: Final = 3
QEMU_VM_EOF: Final = 0
QEMU_VM_SECTION_START: Final = 1
QEMU_VM_SECTION_PART: Final = 2
QEMU_VM_SECTION_END: Final = 3
QEMU_VM_SECTION_FULL: Final = 4
QEMU_VM_SUBSECTION: Final = 5
QEMU_VM_VMDESCRIPTION: Final = 6
QEMU_VM_CONFIGURATION: Final = 7
QEMU_VM_COMMAND: Final = 8
QEMU_VM_SECTION_FOOTER: Final = 0x7E

RAM_SAVE_FLAG_ZERO: Final = 0x02
RAM_SAVE_FLAG_MEM_SIZE: Final = 0x04
RAM_SAVE_FLAG_PAGE: Final = 0x08
RAM_SAVE_FLAG_EOS: Final = 0x10
RAM_SAVE_FLAG_CONTINUE: Final = 0x20
RAM_SAVE_FLAG_XBZRLE: Final = 0x40
RAM_SAVE_FLAG_COMPRESS_PAGE: Final = 0x100
RAM_SAVE_FLAG_MULTIFD_FLUSH: Final = 0x200
#: What the version byte of an XBZRLE record is. Source: ENCODING_FLAG_XBZRLE.
ENCODING_FLAG_XBZRLE: Final = 1

#: Capabilities that change what stands in the list of blocks.
IGNORE_SHARED: Final = "x-ignore-shared"
MAPPED_RAM: Final = "mapped-ram"

#: TARGET_PAGE_SIZE, unless the stream says another, and how many bits another can have.
PAGE_SIZE: Final = 4096
PAGE_BITS: Final = range(10, 17)

#: Sections of devices that take turns with RAM. Each ends its part of the stream in a way of its own.
STORAGE_ATTRIBUTES: Final = "s390-storage_attributes"
HASH_TABLE: Final = "spapr/htab"
STATTR_FLAGS: Final = 0xFFF
STATTR_FLAG_EOS: Final = 0x01
STATTR_FLAG_MORE: Final = 0x02
STATTR_FLAG_DONE: Final = 0x08
#: Bytes of an entry of the hash table. Source: HASH_PTE_SIZE_64 of target/ppc/mmu-hash64.h.
HASH_PTE_SIZE: Final = 16

#: More blocks of RAM, capabilities and sections in parts than these are not believed.
MAX_BLOCKS: Final = 1 << 14
MAX_CAPABILITIES: Final = 1 << 8
MAX_LIVE: Final = 64
#: Sections of devices: a guest of 4,096 CPUs has some 16,000.
MAX_DEVICES: Final = 1 << 16
#: Bytes of the description of the devices: one of 4,096 CPUs has some 100 MiB.
MAX_DESCRIPTION: Final = 1 << 28
#: Bytes of RAM of all blocks in a file.
MAX_RAM: Final = 1 << 46
