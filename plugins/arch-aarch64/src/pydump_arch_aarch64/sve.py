"""The SVE note, whose layout depends on the vector length.

Source: struct user_sve_header and the SVE_PT_SVE_* macros (arch/arm64/include/uapi/asm/ptrace.h), and "Note on
endianness" in Documentation/arch/arm64/sve.rst of the Linux kernel: Z, P and FFR are stored least significant byte
first whatever the byte order of everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydump.errors import PlanError
from pydump.layout.registers import Field, NoteKind, numbered
from pydump.layout.struct import U16, U32, Layout
from pydump.model.guest import ByteOrder
from pydump.model.note import Note

#: SVE_PT_REGS_SVE: the note holds SVE registers rather than plain FPSIMD ones.
REGS_SVE: Final = 1
#: Bytes in the longest vector the architecture allows.
VL_MAX: Final = 256

Z_NAMES: Final = tuple(numbered("z{}", 32).split())
P_NAMES: Final = (*numbered("p{}", 16).split(), "ffr")


class SveHeader(Layout):
    """struct user_sve_header. Source: arch/arm64/include/uapi/asm/ptrace.h."""

    size: U32 = 0
    max_size: U32 = 0
    vl: U16 = 0
    max_vl: U16 = 0
    flags: U16 = 0
    reserved: U16 = 0


def _p_offset(vl: int) -> int:
    return SveHeader.nbytes() + len(Z_NAMES) * vl


def _fpsr_offset(vl: int) -> int:
    return _p_offset(vl) + len(P_NAMES) * vl // 8 + 15 & ~15


def sve_size(vl: int) -> int:
    """Bytes in a note for vectors of ``vl`` bytes."""
    return _fpsr_offset(vl) + 8 + 15 & ~15


class SveNote(NoteKind):
    """NT_ARM_SVE. It is there when sve_vl, the vector length in bytes, is given."""

    def pack(self, values: Mapping[str, int], byte_order: ByteOrder) -> Note:
        vl = values["sve_vl"]
        max_vl = values["sve_max_vl"] or vl
        if vl % 16 or max_vl % 16 or not vl <= max_vl <= VL_MAX:
            raise PlanError(
                f"sve_vl {vl} and sve_max_vl {max_vl} are not vector lengths",
                hint=f"they are multiples of 16 bytes up to {VL_MAX}",
            )
        desc = bytearray(sve_size(vl))
        desc[: SveHeader.nbytes()] = SveHeader(len(desc), sve_size(max_vl), vl, max_vl, REGS_SVE).pack(byte_order)
        for names, start, size in ((Z_NAMES, SveHeader.nbytes(), vl), (P_NAMES, _p_offset(vl), vl // 8)):
            for i, name in enumerate(names):
                if values[name] >> 8 * size:
                    raise PlanError(f"{name} has {8 * size} bits with sve_vl {vl}, and {values[name]:#x} does not fit")
                at = start + i * size
                desc[at : at + size] = values[name].to_bytes(size, "little")
        at = _fpsr_offset(vl)
        desc[at : at + 8] = values["fpsr"].to_bytes(4, byte_order) + values["fpcr"].to_bytes(4, byte_order)
        return Note(self.name, self.type, bytes(desc))

    def fits(self, note: Note) -> bool:
        """In either byte order: its size tells which, and the other one's length of a vector is too large."""
        orders: tuple[ByteOrder, ...] = ("little", "big")
        return any(self._vl(note, order) for order in orders)

    def _vl(self, note: Note, byte_order: ByteOrder) -> int:
        """The vector length in bytes; 0 where the note holds no SVE registers."""
        if len(note.desc) < SveHeader.nbytes():
            return 0
        header = SveHeader.unpack(note.desc, byte_order)
        vl = header.vl
        good = 16 <= vl <= VL_MAX and vl % 16 == 0 and header.flags & REGS_SVE and len(note.desc) == sve_size(vl)
        return vl if good else 0

    def unpack(self, note: Note, byte_order: ByteOrder) -> dict[str, int]:
        desc = note.desc
        vl = self._vl(note, byte_order)
        if not vl:
            return {}
        header = SveHeader.unpack(desc, byte_order)
        values = {"sve_vl": vl, "sve_max_vl": header.max_vl}
        for names, start, size in ((Z_NAMES, SveHeader.nbytes(), vl), (P_NAMES, _p_offset(vl), vl // 8)):
            for i, name in enumerate(names):
                values[name] = int.from_bytes(desc[start + i * size : start + (i + 1) * size], "little")
        at = _fpsr_offset(vl)
        values["fpsr"] = int.from_bytes(desc[at : at + 4], byte_order)
        values["fpcr"] = int.from_bytes(desc[at + 4 : at + 8], byte_order)
        return values


#: The fields name the registers at their greatest width; where they lie follows from the vector length.
SVE: Final = SveNote(
    "SVE",
    "LINUX",
    0x405,
    None,
    (
        Field(8, 2, "sve_vl", 16),
        Field(10, 2, "sve_max_vl", 16),
        *(Field(16, VL_MAX, name, 8 * VL_MAX) for name in Z_NAMES),
        *(Field(_p_offset(VL_MAX), VL_MAX // 8, name, VL_MAX) for name in P_NAMES),
    ),
    when="sve_vl",
)
