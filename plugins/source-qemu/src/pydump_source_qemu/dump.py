"""What QEMU's own dump gives: the guest's facts, and memory that only QEMU can read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from pydump.errors import ReadError
from pydump.model.memory import MemoryMap, RamBlock, Ranges
from pydump_qemu_stream.elf_head import Head, read_head
from pydump_source_qemu.described import read_stated
from pydump_source_qemu.pipe import Pipe, RefusedError, elf_stream, widen
from pydump_source_qemu.session import Session
from pydump_source_qemu.store import Store

#: Bytes read in one go.
STEP: Final = 8 << 20


def read_facts(session: Session) -> Head:
    """The guest's facts, now. QEMU pauses the guest for about a millisecond.

    Of a guest that QEMU does not dump they are what can be had without a dump: no registers, and no memory follows.

    Raises:
        SourceError: QEMU does not give them.
    """
    if session.no_dump is None:
        try:
            with session.waited_for(), elf_stream(session.monitor) as pipe:
                return read_head(pipe)
        except RefusedError as error:
            session.no_dump = error.message
    return Head(read_stated(session.monitor), ())


def within(head: Head, wanted: MemoryMap) -> Head:
    """``head`` with no more memory than is wanted."""
    return replace(head, guest=replace(head.guest, memory=clipped(head.guest.memory, wanted.ranges())))


def clipped(memory: MemoryMap, window: Ranges) -> MemoryMap:
    """The parts of each block that lie in a window."""
    parts = ((start, end - start) for block in memory for start, end in window.clip(block.paddr, block.end))
    return MemoryMap.of(parts)


def take(pipe: Pipe, head: Head, window: Ranges, store: Store, tell: Callable[[int], None]) -> list[tuple[int, int]]:
    """Keep the memory of a stream that lies in a window, without its zeros.

    Args:
        pipe: The stream, behind its head.
        head: Its head.
        window: What of its memory is wanted.
        store: What keeps it.
        tell: Called with how many bytes have come.

    Returns:
        ``(start, end)`` in paddr of what was kept.
    """
    data: list[tuple[int, int]] = []
    buffer = memoryview(bytearray(STEP))
    done = 0
    for load in head.loads:
        for start, end in window.clip(load.paddr, load.paddr + load.size):
            pipe.skip_to(load.offset + start - load.paddr)
            for at in range(start, end, STEP):
                size = min(STEP, end - at)
                pipe.read_into(buffer[:size])
                data += store.take(at, buffer[:size])
                done += size
                tell(done)
    return data


def fetch(session: Session, store: Store, blocks: tuple[RamBlock, ...]) -> list[tuple[int, int]]:
    """Have QEMU send blocks of memory.

    Returns:
        ``(start, end)`` in paddr of what of it is not zero.

    Raises:
        ReadError: There is no RAM in part of a block.
        SourceError: QEMU does not send it.
    """
    data = []
    for block in blocks:
        with session.waited_for(), elf_stream(session.monitor, (block.paddr, block.size)) as pipe:
            widen(pipe)
            head = _head_of(pipe, block.paddr, block.size)
            data += take(pipe, head, Ranges.of([(block.paddr, block.end)]), store, lambda _: None)
    return data


def peek(session: Session, paddr: int, buffer: memoryview) -> None:
    """Read memory of the guest as it is now.

    Raises:
        ReadError: There is no RAM in part of the range.
        SourceError: QEMU does not send it.
    """
    with session.waited_for(), elf_stream(session.monitor, (paddr, len(buffer))) as pipe:
        for load in _head_of(pipe, paddr, len(buffer)).loads:
            pipe.skip_to(load.offset)
            pipe.read_into(buffer[load.paddr - paddr : load.paddr - paddr + load.size])


def _head_of(pipe: Pipe, paddr: int, size: int) -> Head:
    """The head of a stream that must have all of a range."""
    head = read_head(pipe)
    if head.guest.memory.ranges() != Ranges.of([(paddr, paddr + size)]):
        raise ReadError(paddr, size, "there is no RAM in all or part of it")
    return head
