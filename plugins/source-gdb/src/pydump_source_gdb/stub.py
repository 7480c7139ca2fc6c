"""What is asked of a stub: its target description, the registers of its CPUs, its monitor, memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from pydump.errors import ReadError, SourceError
from pydump.interfaces.arch import SMALLEST_PAGE
from pydump_source_gdb import keeper
from pydump_source_gdb.description import MAX_SIZE, Description, Register, read_description
from pydump_source_gdb.guard import Guard
from pydump_source_gdb.openocd import Openocd
from pydump_source_gdb.wire import Wire, WireError

#: Bytes of a packet where the stub does not say; and the most that is asked for.
DEFAULT_PACKET, MAX_PACKET = 400, 256 << 10
#: Questions that are on their way at once to a stub that keeps them.
WINDOW: Final = 128
#: CPUs of a guest.
MAX_THREADS: Final = 1 << 14
#: The name of whichever CPU the stub takes. Source: GDB manual, appendix "GDB Remote Serial Protocol", Packets.
ANY_THREAD: Final = b"0"
_THREAD = re.compile(rb"(?:p[0-9a-fA-F]+\.)?[0-9a-fA-F]+")


class Stub:
    """A stub that has stopped its guest.

    Args:
        guard: The connection.
        patience: Seconds for an answer.
    """

    def __init__(self, guard: Guard, patience: float) -> None:
        found = guard.found
        self._wire = Wire(guard.connection, acks=found.acks, patience=patience)
        features = found.features.split(";")
        stated = next((f.partition("=")[2] for f in features if f.startswith("PacketSize=")), "")
        packet = int(stated, 16) if re.fullmatch(r"[0-9a-fA-F]{1,8}", stated) else DEFAULT_PACKET
        self._packet = max(64, min(packet, MAX_PACKET))
        self._descriptions: dict[bytes, Description] = {}
        self._describes = "qXfer:features:read+" in features
        self._binary = "binary-upload+" in features
        #: Whether it belongs to a process of an operating system: no machine has an auxiliary vector.
        self.is_process = "qXfer:auxv:read+" in features
        #: Whether it is QEMU's, which keeps what it has not come to and has a mode of physical memory.
        self.is_qemu = found.physical is not None
        self._openocd = Openocd.of(self) if found.openocd else None
        # QEMU takes what fills a packet. Others count the frame, and a binary answer may be escaped throughout.
        self._chunk = self._packet // 2 if self.is_qemu else (self._packet - 8) // 2 // 16 * 16

    def monitor(self, command: str) -> str | None:
        """What a command of its monitor prints, or None where there is no such command."""
        with _translated():
            return keeper.monitor(self._wire, command)

    def use_physical(self) -> bool:
        """Read physical memory from now on. The guard puts back what was.

        Returns:
            False for a stub that reads virtual memory alone.
        """
        if not self.is_qemu:
            return self._openocd is not None
        with _translated():
            if self._wire.ask(b"Qqemu.PhyMemMode:1") != b"OK":
                raise SourceError("the stub does not read physical memory", hint="QEMU does since 4.1")
        return True

    def description(self, thread: bytes) -> Description:
        """The target description of a CPU; empty where the stub has none. All CPUs of a cluster have the same."""
        cluster = thread.rpartition(b".")[0]
        if self._describes and cluster not in self._descriptions:
            self.select(thread)
            with _translated():
                self._descriptions[cluster] = read_description(self._document)
        return self._descriptions.get(cluster, Description())

    def _document(self, name: str) -> bytes:
        data = bytearray()
        if not re.fullmatch(r"[\w.+/-]{1,200}", name):
            raise SourceError("the stub's target description includes a document with an odd name")
        while True:
            answer = self._wire.ask(b"qXfer:features:read:%b:%x,%x" % (name.encode(), len(data), self._packet - 16))
            data += answer[1:]
            if answer[:1] == b"l":
                return bytes(data)
            if answer[:1] != b"m" or len(answer) == 1 or len(data) > MAX_SIZE:
                raise SourceError(f"the stub does not send {name} of its target description")

    def threads(self) -> list[bytes]:
        """The stub's names of its CPUs, in its order. A stub that names none has one."""
        found: list[bytes] = []
        with _translated():
            answer = self._wire.ask(b"qfThreadInfo")
            while answer[:1] == b"m":
                found += answer[1:].split(b",")
                if len(found) > MAX_THREADS or not all(map(_THREAD.fullmatch, found[-1024:])):
                    raise SourceError("the stub's list of CPUs is damaged")
                answer = self._wire.ask(b"qsThreadInfo")
        return found or [ANY_THREAD]

    def registers(self, thread: bytes, description: Description, wanted: Sequence[Register]) -> dict[str, bytes]:
        """Registers of a CPU as they come.

        Args:
            thread: The stub's name of the CPU.
            description: All registers.
            wanted: Those that are wanted.

        Returns:
            By name. A register that the stub does not give is not there.
        """
        self.select(thread)
        with _translated():
            text = self._wire.ask(b"g")
            found: dict[str, bytes] = {}
            at = 0
            rest: list[Register] = []
            names = {register.number: register for register in wanted}
            for register in description.registers:
                value = text[at : at + 2 * register.size]
                at += 2 * register.size
                if register.number not in names:
                    continue
                if len(value) == 2 * register.size:
                    _keep(found, register, value)
                else:
                    rest.append(register)
            for register, answer in zip(rest, self._ask_all([b"p%x" % r.number for r in rest]), strict=True):
                if len(answer) == 2 * register.size:
                    _keep(found, register, answer)
        return found

    def _ask_all(self, questions: Sequence[bytes]) -> Iterator[bytes]:
        if not self.is_qemu:
            yield from map(self._wire.ask, questions)
            return
        for at in range(0, len(questions), WINDOW):
            yield from self._wire.ask_all(questions[at : at + WINDOW])

    def select(self, thread: bytes) -> None:
        """Ask of this CPU from now on: its registers, and virtual memory as it sees it."""
        with _translated():
            if self._wire.ask(b"Hg" + thread) != b"OK":
                raise SourceError(f"the stub does not show CPU {thread.decode()}")

    def read_runs(
        self,
        runs: Sequence[tuple[int, int]],
        take: Callable[[int, bytes], None],
        lost: Callable[[int, int], None] | None = None,
    ) -> None:
        """Read memory.

        Args:
            runs: ``(start, end)`` of addresses.
            take: Is given an address and what lies there, piece by piece.
            lost: Is given address and size of what the stub does not give; without it that is an error.

        Raises:
            ReadError: The stub does not give a part of it.
            SourceError: The stub fails.
        """
        pieces = ((at, min(self._chunk, end - at)) for start, end in runs for at in range(start, end, self._chunk))
        with _translated():
            while batch := [piece for _, piece in zip(range(WINDOW), pieces, strict=False)]:
                short: list[tuple[int, int]] = []
                for (at, size), data in zip(batch, self._memory(batch), strict=True):
                    if data:
                        take(at, data)
                    if len(data) < size:
                        short.append((at + len(data), size - len(data)))
                for at, size in short:
                    self._read_rest(at, size, take, lost)

    def _read_rest(
        self, at: int, size: int, take: Callable[[int, bytes], None], lost: Callable[[int, int], None] | None
    ) -> None:
        """Read what was not in an answer, page by page."""
        while size:
            part = min(size, SMALLEST_PAGE - at % SMALLEST_PAGE)
            (data,) = self._memory([(at, part)])
            if data:
                take(at, data)
            elif lost is None:
                raise ReadError(at, part, "the stub does not give it")
            else:
                lost(at, part)
            read = len(data) or part
            at, size = at + read, size - read

    def _memory(self, pieces: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """What lies at each address, as much as there is of so many bytes."""
        if self._openocd is not None:
            yield from (self._openocd.read(at, size) for at, size in pieces)
            return
        answers = self._ask_all([self._question(*piece) for piece in pieces])
        for (_, size), answer in zip(pieces, answers, strict=True):
            yield self._data(answer, size)

    def _question(self, at: int, size: int) -> bytes:
        return b"%c%x,%x" % (b"x" if self._binary else b"m", at, size)

    def _data(self, answer: bytes, size: int) -> bytes:
        """The memory in an answer; empty where it is an error, or makes no sense."""
        if self._binary:
            data = answer[1:] if answer[:1] == b"b" else b""
        else:
            try:
                data = bytes.fromhex(answer.decode("ascii"))
            except ValueError:
                data = b""
        if len(data) > size:
            raise SourceError("the stub sends more memory than it was asked for")
        return data


def _keep(found: dict[str, bytes], register: Register, text: bytes) -> None:
    try:
        found.setdefault(register.name, bytes.fromhex(text.decode("ascii")))
    except ValueError:  # "xx": the stub does not know it
        return


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except WireError as error:
        raise SourceError(str(error), hint="the guest is let go") from None
