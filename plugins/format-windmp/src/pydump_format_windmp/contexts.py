"""The registers of each CPU, where Windows saves them: a CONTEXT that the control block of each processor points to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydump.errors import PydumpError
from pydump.model.guest import Cpu
from pydump.model.note import Note
from pydump_format_windmp.layout import CONTEXT_FLAGS, CONTEXTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydump.kernel.memory import KernelMemory
    from pydump_format_windmp.kdbg import Kdbg

#: More processors than this are not believed: Windows runs on 2048 at most.
MAX_CPUS: Final = 2048


def find_contexts(kernel: KernelMemory, kdbg: Kdbg, bits: int, n_cpus: int) -> tuple[int | None, ...]:
    """The vaddr of the context of each of the first ``n_cpus`` processors; None for one that cannot be read.

    Source: QEMU's dump/win_dump.c, patch_and_save_context.
    """
    fields = kdbg.fields
    if not fields.offset_prcb_context:  # Windows before 7
        return (None,) * min(n_cpus, MAX_CPUS)
    size = CONTEXTS[bits].size or 0
    mask = (1 << bits) - 1
    return tuple(
        _place(kernel, (fields.ki_processor_block & mask) + i * kernel.word_size, fields.offset_prcb_context, size)
        for i in range(min(n_cpus, MAX_CPUS))
    )


def _place(kernel: KernelMemory, pointer: int, offset: int, size: int) -> int | None:
    """The vaddr of a context, by the address of the pointer to its processor's control block."""
    try:
        vaddr = kernel.read_word(kernel.read_word(pointer) + offset)
        kernel.check(vaddr, size)
    except PydumpError:
        return None
    return vaddr


def pack_context(cpu: Cpu, bits: int) -> bytes:
    """The context that holds the registers of a CPU."""
    return CONTEXTS[bits].pack(cpu.registers, "little").desc


def unpack_context(data: bytes, bits: int) -> dict[str, int] | None:
    """The registers in a context, or None where its flags say that it does not hold them."""
    at, needed = CONTEXT_FLAGS[bits]
    kind: Any = CONTEXTS[bits]
    if len(data) < kind.size or int.from_bytes(data[at : at + 4], "little") & needed != needed:
        return None
    registers: dict[str, int] = kind.unpack(Note(kind.name, kind.type, data[: kind.size]), "little")
    return registers


def read_contexts(kernel: KernelMemory, vaddrs: Sequence[int | None], bits: int) -> tuple[Cpu, ...]:
    """The CPUs whose contexts can be read and hold registers."""
    size = CONTEXTS[bits].size or 0
    cpus = []
    for index, vaddr in enumerate(vaddrs):
        try:
            registers = None if vaddr is None else unpack_context(kernel.read(vaddr, size), bits)
        except PydumpError:
            registers = None
        if registers is not None:
            cpus.append(Cpu(index, registers))
    return tuple(cpus)
