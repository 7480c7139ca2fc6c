"""The header of a Windows crash dump, which VMCOREINFO notes of Windows guests hold too.

Source: QEMU's include/qemu/win_dump_defs.h (WinDumpHeader64, WinDumpHeader32) and Volatility 3's symbols/windows/
crash64.json and crash.json (_DUMP_HEADER64, _DUMP_HEADER), which has the fields of the 32-bit header that QEMU leaves
out. Names are Microsoft's, in lower case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

from pydump.layout.struct import U32, U64, Bytes4, Layout
from pydump.model.windows import WindowsFacts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydump.model.note import Note

#: What the headers of all crash dumps begin with, and what Windows fills unused parts of them with.
SIGNATURE: Final = b"PAGE"
#: The second word of a 64-bit header.
VALID_DUMP_64: Final = b"DU64"
#: The second word of a 32-bit header.
VALID_DUMP_32: Final = b"DUMP"
#: A number that nobody has set: the filling.
UNSET: Final = int.from_bytes(SIGNATURE, "little")
#: The bugcheck code of a dump of a running system. Source: win_dump_defs.h, LIVE_SYSTEM_DUMP.
LIVE_SYSTEM_DUMP: Final = 0x161

_U8 = Annotated[int, "B"]
_Bytes2 = Annotated[bytes, "2s"]
_Bytes32 = Annotated[bytes, "32s"]
_Bytes80 = Annotated[bytes, "80s"]
_Bytes128 = Annotated[bytes, "128s"]
_Bytes700 = Annotated[bytes, "700s"]
_Bytes1200 = Annotated[bytes, "1200s"]
_Bytes3000 = Annotated[bytes, "3000s"]


class DumpHeader64(Layout):
    """DUMP_HEADER64."""

    signature: Bytes4 = SIGNATURE
    valid_dump: Bytes4 = VALID_DUMP_64
    major_version: U32 = 0
    minor_version: U32 = 0
    directory_table_base: U64 = 0
    pfn_database: U64 = 0
    ps_loaded_module_list: U64 = 0
    ps_active_process_head: U64 = 0
    machine_image_type: U32 = 0
    number_processors: U32 = 0
    bugcheck_code: U32 = 0
    unused0: U32 = 0
    bugcheck_parameter1: U64 = 0
    bugcheck_parameter2: U64 = 0
    bugcheck_parameter3: U64 = 0
    bugcheck_parameter4: U64 = 0
    version_user: _Bytes32 = b""
    kd_debugger_data_block: U64 = 0
    physical_memory_block: _Bytes700 = b""
    unused1: Bytes4 = b""
    context_record: _Bytes3000 = b""
    exception: Annotated[bytes, "152s"] = b""
    dump_type: U32 = 0
    unused2: U32 = 0
    required_dump_space: U64 = 0
    system_time: U64 = 0
    comment: _Bytes128 = b""
    system_up_time: U64 = 0
    mini_dump_fields: U32 = 0
    secondary_data_state: U32 = 0
    product_type: U32 = 0
    suite_mask: U32 = 0
    writer_status: U32 = 0
    unused3: _U8 = 0
    kd_secondary_version: _U8 = 0
    reserved: Annotated[bytes, "4018s"] = b""


class DumpHeader32(Layout):
    """DUMP_HEADER32."""

    signature: Bytes4 = SIGNATURE
    valid_dump: Bytes4 = VALID_DUMP_32
    major_version: U32 = 0
    minor_version: U32 = 0
    directory_table_base: U32 = 0
    pfn_database: U32 = 0
    ps_loaded_module_list: U32 = 0
    ps_active_process_head: U32 = 0
    machine_image_type: U32 = 0
    number_processors: U32 = 0
    bugcheck_code: U32 = 0
    bugcheck_parameter1: U32 = 0
    bugcheck_parameter2: U32 = 0
    bugcheck_parameter3: U32 = 0
    bugcheck_parameter4: U32 = 0
    version_user: _Bytes32 = b""
    pae_enabled: _U8 = 0
    kd_secondary_version: _U8 = 0
    version_user2: _Bytes2 = b""
    kd_debugger_data_block: U32 = 0
    physical_memory_block: _Bytes700 = b""
    context_record: _Bytes1200 = b""
    exception: _Bytes80 = b""
    comment: _Bytes128 = b""
    reserved0: Annotated[bytes, "1768s"] = b""
    dump_type: U32 = 0
    mini_dump_fields: U32 = 0
    secondary_data_state: U32 = 0
    product_type: U32 = 0
    suite_mask: U32 = 0
    writer_status: U32 = 0
    required_dump_space: U64 = 0
    reserved1: Annotated[bytes, "16s"] = b""
    system_up_time: U64 = 0
    system_time: U64 = 0
    reserved2: Annotated[bytes, "56s"] = b""


#: The header of either.
DumpHeader: TypeAlias = DumpHeader64 | DumpHeader32
#: The header by bits.
HEADERS: Final[dict[int, type[DumpHeader64] | type[DumpHeader32]]] = {64: DumpHeader64, 32: DumpHeader32}


def header_bits(head: bytes) -> int | None:
    """64 or 32 where ``head`` begins as a crash dump's header of so many bits does, or None."""
    valid_dump = {SIGNATURE + VALID_DUMP_64: 64, SIGNATURE + VALID_DUMP_32: 32}
    return valid_dump.get(head[:8])


def windows_facts(header: bytes) -> WindowsFacts | None:
    """The facts that a header states, or None where ``header`` is not one of its length."""
    bits = header_bits(header)
    if bits is None or len(header) != HEADERS[bits].nbytes():
        return None
    fields = HEADERS[bits].unpack(header, "little")

    def known(value: int) -> int:
        return 0 if value & 0xFFFFFFFF == UNSET else value

    return WindowsFacts(
        header,
        bits,
        known(fields.minor_version),
        known(fields.number_processors),
        known(fields.directory_table_base),
        isinstance(fields, DumpHeader32) and fields.pae_enabled == 1,
        known(fields.kd_debugger_data_block),
        (
            known(fields.bugcheck_code),
            fields.bugcheck_parameter1,
            fields.bugcheck_parameter2,
            fields.bugcheck_parameter3,
            fields.bugcheck_parameter4,
        ),
    )


def windows_of(notes: Iterable[Note]) -> WindowsFacts | None:
    """The facts of the first VMCOREINFO note that holds a crash dump's header.

    The fw_cfg driver of virtio-win gives the hypervisor such a note, where Linux gives a text.
    """
    found = (windows_facts(note.desc) for note in notes if note.is_vmcoreinfo)
    return next((facts for facts in found if facts is not None), None)
