"""The registers of each CPU, where Windows saves them: a CONTEXT that the control block of each processor points to."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Place:
    """Where the context of a CPU lies.

    Attributes:
        vaddr: Its address.
        runs: ``(paddr, size)`` of the pieces that its bytes lie in, in order.
    """

    vaddr: int
    runs: tuple[tuple[int, int], ...]


def find_contexts(kernel: KernelMemory, kdbg: Kdbg, bits: int, n_cpus: int) -> tuple[Place | None, ...]:
    """Where the context of each of the first ``n_cpus`` processors lies; None for one that cannot be found.

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


def _place(kernel: KernelMemory, pointer: int, offset: int, size: int) -> Place | None:
    """Where a context lies, by the address of the pointer to its processor's control block."""
    try:
        vaddr = kernel.read_word(kernel.read_word(pointer) + offset)
        kernel.check(vaddr, size)
    except PydumpError:
        return None
    return Place(vaddr, tuple((run.paddr, run.size) for run in kernel.runs(vaddr, size)))


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


def read_contexts(kernel: KernelMemory, places: Sequence[Place | None], bits: int) -> tuple[Cpu, ...]:
    """The CPUs whose contexts can be read and hold registers."""
    size = CONTEXTS[bits].size or 0
    cpus = []
    for index, place in enumerate(places):
        try:
            registers = unpack_context(kernel.read(place.vaddr, size), bits) if place else None
        except PydumpError:
            registers = None
        if registers is not None:
            cpus.append(Cpu(index, registers))
    return tuple(cpus)
