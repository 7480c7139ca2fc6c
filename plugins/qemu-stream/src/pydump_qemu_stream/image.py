"""The memory that a migration stream in a file holds."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydump.errors import DamagedPageError, FormatError, PlanError, PydumpError, ReadError
from pydump.interfaces.image import MemoryImage, Place
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump_qemu_stream.blocks import BlockMemory, MappedBlock, SharedBlock, StreamedBlock
from pydump_qemu_stream.domain import Domain
from pydump_qemu_stream.facts import guest_of, read_vmcoreinfo
from pydump_qemu_stream.index import Index
from pydump_qemu_stream.place import ONE_MIB, SHADOW, UNKNOWN, Machine, Piece, parse_places, place, with_unknown
from pydump_qemu_stream.ram import Block
from pydump_qemu_stream.reader import FileReader
from pydump_qemu_stream.records import IGNORE_SHARED, MAX_RAM
from pydump_qemu_stream.state import read_devices
from pydump_qemu_stream.stream import Stream

if TYPE_CHECKING:
    from pydump.interfaces.backing import Backing

#: What a machine's architecture is where its CPUs are not known, by the name of its RAM block.
ARCHES: Final = {
    "mach-virt.ram": "aarch64",
    "riscv_virt_board.ram": "riscv64",
    "s390.ram": "s390x",
    "ppc_spapr.ram": "ppc64",
}


@contextlib.contextmanager
def _at(shift: int, block: str) -> Iterator[None]:
    """A page that is damaged has a paddr, which is ``shift`` more than its offset in the block."""
    try:
        yield
    except DamagedPageError as error:
        raise DamagedPageError(error.paddr + shift, error.size, f"block {block}: {error.message}") from None


def _whole_pages(piece: Piece, page_size: int, runs: Sequence[tuple[int, int]], i: int) -> list[tuple[int, int]]:
    """The runs from the ``i``-th on that are whole pages of one piece, as pages of its block."""
    found, shift, end = [], piece.paddr - piece.offset, piece.paddr + piece.size
    for j in range(i, len(runs)):
        start, stop = runs[j]
        if start < piece.paddr or stop > end or (start - shift) % page_size or (stop - shift) % page_size:
            break
        found.append(((start - shift) // page_size, (stop - shift) // page_size))
    return found


def _nothing(name: str) -> None:
    """No file is called that."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the user says of a stream, and what lies beside it.

    Attributes:
        place: Where RAM blocks are: ``BLOCK=ADDR[,OFFSET,SIZE]``, several with ``+`` between them.
        backing: Which file holds a RAM block: ``BLOCK=FILE``, several with ``+`` between them.
        sibling: Opens the file of a given name; None where there is none.
        files: What is closed with the image.
    """

    place: str = ""
    backing: str = ""
    sibling: Callable[[str], Backing | None] = _nothing
    files: Sequence[Backing] = ()


class QemuImage(MemoryImage):
    """The memory that a migration stream holds.

    Args:
        backing: The file that holds the stream.
        start: Where in it the stream begins.
        domain: What libvirt says of the machine.
        container: What the stream lies in, empty for nothing; and warnings about that.
        given: What the user says, and what lies beside the file.

    Raises:
        FormatError: It is not a stream, or ends before its first page.
        PlanError: It is not known where its RAM is.
    """

    def __init__(
        self, backing: Backing, start: int, domain: Domain, container: tuple[str, tuple[str, ...]], given: Given
    ) -> None:
        self.path = backing.path
        self._backing = backing
        self._given = given
        self._container = container[0]
        index = Index()
        stream = Stream(FileReader(backing, start), index, MAX_RAM)
        warnings = list(container[1])
        cut = self._walk(stream, index, start)
        warnings += cut
        self._machine, self._ended = stream.machine or domain.machine, stream.ended
        self._shared = IGNORE_SHARED in stream.capabilities
        devices = read_devices(lambda at: backing.read(at.start, at.end - at.start), stream, index.list)
        self._cpus = devices.cpus
        machine = Machine(
            self._machine,
            self._arch(domain, index.list),
            index.list,
            devices.shadow,
            devices.hotplugged,
            domain.dimms,
        )
        pieces, faults = place(machine, parse_places(given.place, index.list))
        if cut:
            pieces = with_unknown(machine, pieces)
        wanted = {piece.block for piece in pieces}
        self._memories = {b.name: self._memory_of(b, index) for b in index.list if b.name in wanted}
        if UNKNOWN in wanted:
            self._memories[UNKNOWN] = SharedBlock(None, Block(UNKNOWN, ONE_MIB - SHADOW, 4096))
            warnings.append(
                f"what the guest sees at {SHADOW:#x}..{ONE_MIB:#x}, RAM or firmware, is behind the cut and counts as "
                "unreadable; RAM blocks behind it, such as the firmware below 4 GiB, are not known"
            )
        self._pieces = [part for piece in pieces for part in self._sent(piece, devices.hotplugged.keys())]
        self._starts = [piece.paddr for piece in self._pieces]
        self._memory = MemoryMap.of((piece.paddr, piece.size) for piece in self._pieces)
        self._lost = Ranges.of(
            (piece.paddr + a - piece.offset, piece.paddr + b - piece.offset)
            for piece in self._pieces
            for a, b in self._memories[piece.block].lost().clip(piece.offset, piece.offset + piece.size)
        )
        shared = [
            name
            for name, memory in self._memories.items()
            if isinstance(memory, SharedBlock) and memory.lost() and name != UNKNOWN
        ]
        if shared:
            names = "+".join(f"{name}=FILE" for name in shared)
            warnings.append(f"shared RAM is not in the stream: use --qemu-backing {names}")
        elif self._lost:
            warnings.append(f"{self._lost.size} bytes of guest memory are not in the file")
        self._warnings = (*warnings, *faults, *(devices.warnings if self._ended else ()))
        self._vmcoreinfo = read_vmcoreinfo(devices, self._memory, self.read_into)

    def _walk(self, stream: Stream, index: Index, start: int) -> list[str]:
        """Index the stream as far as it goes."""
        try:
            stream.read()
        except EOFError:
            fault = f"the stream is cut off at {self._backing.size:#x}"
        except PydumpError as error:
            fault = error.message
        else:
            fault = ""
        if not index.list:
            raise FormatError(self.path, fault or "the stream has no RAM", offset=start)
        if stream.ended and fault:
            return [f"all RAM is there, but not all devices: {fault}"]
        return [fault] if fault else []

    def _arch(self, domain: Domain, blocks: list[Block]) -> str:
        if self._cpus is not None:
            return self._cpus.arch
        names = {block.name for block in blocks}
        return domain.arch or next((arch for name, arch in ARCHES.items() if name in names), "")

    def _memory_of(self, block: Block, index: Index) -> BlockMemory:
        files = dict(one.partition("=")[::2] for one in self._given.backing.split("+") if one)
        if block.name in files:
            backing = self._given.sibling(files[block.name])
            if backing is None:
                raise PlanError(f"--qemu-backing: there is no file {files[block.name]} beside {self.path}")
            return SharedBlock(backing, block)
        if block.mapped is not None:
            return MappedBlock(self._backing, block)
        memory = StreamedBlock(self._backing, block, index.runs(block), complete=self._ended)
        if self._shared and not memory.sent():
            return SharedBlock(None, block)
        return memory

    def _sent(self, piece: Piece, known: object) -> Iterator[Piece]:
        """The parts of a piece that the guest has: QEMU sends no page of virtio-mem that is not plugged in."""
        if "/" not in piece.block or piece.block.startswith("/objects/") or piece.block in known:  # type: ignore[operator]
            yield piece
            return
        for a, b in self._memories[piece.block].sent().clip(piece.offset, piece.offset + piece.size):
            yield Piece(piece.paddr + a - piece.offset, b - a, piece.block, a)

    def guest(self) -> Guest:
        return guest_of(self._memory, self._cpus, self._vmcoreinfo)

    def unreadable(self) -> Ranges:
        return self._lost

    def _parts(self, paddr: int, size: int) -> Iterator[tuple[Piece, int, int]]:
        """``(piece, start, end)`` in paddr of what lies in a range."""
        at, end = paddr, paddr + size
        i = max(0, bisect_right(self._starts, paddr) - 1)
        while i < len(self._pieces) and self._pieces[i].paddr < end:
            piece = self._pieces[i]
            start, stop = max(at, piece.paddr), min(end, piece.paddr + piece.size)
            if start < stop:
                yield piece, start, stop
            i += 1

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        at = paddr
        for piece, start, stop in self._parts(paddr, len(buffer)):
            if start > at:
                break
            shift = piece.paddr - piece.offset
            with _at(shift, piece.block):
                self._memories[piece.block].read_into(start - shift, buffer[start - paddr : stop - paddr])
            at = stop
        if at < paddr + len(buffer):
            raise ReadError(paddr, len(buffer), f"there is no RAM at {at:#x}")

    def read_runs(self, runs: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        """Runs of whole pages that a piece of streamed memory holds are read together."""
        at = i = 0
        while i < len(runs):
            piece = self._pieces[max(0, bisect_right(self._starts, runs[i][0]) - 1)]
            memory, shift = self._memories[piece.block], piece.paddr - piece.offset
            if isinstance(memory, StreamedBlock) and (pages := _whole_pages(piece, memory.page_size, runs, i)):
                i += len(pages)
                size = sum(last - first for first, last in pages) * memory.page_size
                with _at(shift, piece.block):
                    memory.read_pages(pages, buffer[at : at + size])
            else:
                start, end = runs[i]
                i, size = i + 1, end - start
                self.read_into(start, buffer[at : at + size])
            at += size

    def data_ranges(self, paddr: int, size: int) -> Iterator[tuple[int, int]]:
        """What is not zero, as far as the stream says."""
        for piece, start, stop in self._parts(paddr, size):
            shift = piece.paddr - piece.offset
            for a, b in self._memories[piece.block].data_ranges(start - shift, stop - start):
                yield a + shift, b + shift

    def place(self, paddr: int) -> Place | None:
        """Where the byte at ``paddr`` is stored as it is."""
        for piece, _, stop in self._parts(paddr, 4096 - paddr % 4096):
            memory = self._memories[piece.block]
            if isinstance(memory, (StreamedBlock, MappedBlock)) and self._container.find("qcow2") < 0:
                offset = memory.place(paddr - piece.paddr + piece.offset)
                return None if offset is None else Place(self.path, offset, stop - paddr, "none")
            break
        return None

    def describe(self) -> tuple[tuple[str, str], ...]:
        kind = "mapped-ram" if any(isinstance(m, MappedBlock) for m in self._memories.values()) else "migration stream"
        blocks = ", ".join(dict.fromkeys(piece.block for piece in self._pieces))
        within = f" ({self._container})" if self._container else ""
        return (
            ("format", f"QEMU {kind}{within}"),
            ("QEMU machine", self._machine or "unknown"),
            ("RAM blocks", blocks),
        )

    def warnings(self) -> tuple[str, ...]:
        return self._warnings

    def close(self) -> None:
        self._backing.close()
        for file in self._given.files:
            file.close()
