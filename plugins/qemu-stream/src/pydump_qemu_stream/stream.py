"""Walks a migration stream: its sections from the first to the last, whatever they belong to."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from pydump_qemu_stream.ram import RamRecords, Taker
from pydump_qemu_stream.reader import Reader, StreamError, damaged
from pydump_qemu_stream.records import (
    HASH_PTE_SIZE,
    HASH_TABLE,
    MAX_CAPABILITIES,
    MAX_DESCRIPTION,
    MAX_DEVICES,
    MAX_LIVE,
    PAGE_BITS,
    PAGE_SIZE,
    QEMU_VM_COMMAND,
    QEMU_VM_CONFIGURATION,
    QEMU_VM_EOF,
    QEMU_VM_FILE_MAGIC,
    QEMU_VM_FILE_VERSION,
    QEMU_VM_SECTION_END,
    QEMU_VM_SECTION_FOOTER,
    QEMU_VM_SECTION_FULL,
    QEMU_VM_SECTION_PART,
    QEMU_VM_SECTION_START,
    QEMU_VM_SUBSECTION,
    QEMU_VM_VMDESCRIPTION,
    STATTR_FLAG_DONE,
    STATTR_FLAG_EOS,
    STATTR_FLAG_MORE,
    STATTR_FLAGS,
    STORAGE_ATTRIBUTES,
)

#: Bytes of a section that are skipped without knowing its length, where the stream comes through a pipe.
MAX_SKIPPED: Final = 1 << 20
#: No command has a higher number. Source: enum qemu_vm_cmd in migration/savevm.c.
MAX_COMMAND: Final = 32


@dataclass(frozen=True, slots=True)
class Device:
    """The section of a device.

    Attributes:
        name: Its name; a device behind a bus has the path of its place before it.
        instance: Which one of those with this name.
        start: Where in the stream its state begins.
        end: Where it ends.
    """

    name: str
    instance: int
    start: int
    end: int


class Stream:
    """A migration stream.

    Args:
        reader: The stream, at its beginning.
        taker: Gets its RAM.
        most: Bytes that all blocks of RAM have at most.
        longest: Bytes of a section, at most, that must be skipped without knowing its length; None for any.
        keep: Names of devices whose states are kept in ``states``, where the stream cannot be read again.

    Attributes:
        machine: The machine's type: ``pc-q35-7.2``; empty where the stream does not say.
        page_size: Bytes of a page.
        capabilities: Those of migration that the stream lists.
        devices: The sections of devices that have been read, in their order.
        states: What was kept of them.
        description: The JSON that describes the devices; empty where there is none.
        ended: Has all RAM come?
    """

    def __init__(
        self, reader: Reader, taker: Taker, most: int, longest: int | None = None, keep: Collection[str] = ()
    ) -> None:
        self._reader = reader
        self._taker = taker
        self._most = most
        self._longest = longest
        self._keep = keep
        self._live: dict[int, str] = {}
        self._ram: RamRecords | None = None
        self._began = False
        self.machine = ""
        self.page_size = PAGE_SIZE
        self.capabilities: frozenset[str] = frozenset()
        self.devices: list[Device] = []
        self.states: dict[Device, bytes] = {}
        self.description = b""
        self.ended = False

    def read_ram(self) -> None:
        """Read up to the end of RAM, and of what takes turns with it.

        Raises:
            EOFError: The stream ends before.
            StreamError: It is damaged, or something in it is unknown.
        """
        self._head()
        while not (self._reader.peek() in (QEMU_VM_SECTION_FULL, QEMU_VM_EOF) and self._began):
            self._section(self._reader.number(1))

    def read(self) -> None:
        """Read all of it; raises as :meth:`read_ram`. What was read before an error holds."""
        self._head()
        while kind := self._reader.number(1):
            self._section(kind)
        self.ended |= self._began
        try:
            if self._reader.peek() != QEMU_VM_VMDESCRIPTION:
                return
        except EOFError:
            return
        self._reader.skip(1)
        size = self._reader.number(4)
        if size > MAX_DESCRIPTION:
            raise damaged(f"the description of its devices has {size:#x} bytes")
        parts = []
        while size:
            step = min(size, len(self._reader.data))
            parts.append(self._reader.take(step))
            size -= step
        self.description = b"".join(parts)

    def _head(self) -> None:
        if self._reader.number(4) != QEMU_VM_FILE_MAGIC or self._reader.number(4) != QEMU_VM_FILE_VERSION:
            raise StreamError("it is not a migration stream of version 3")

    def _section(self, kind: int) -> None:
        """Read a section of which the first byte has been read."""
        reader = self._reader
        if kind == QEMU_VM_CONFIGURATION and not self._live:
            self._configuration()
        elif kind == QEMU_VM_COMMAND:
            reader.skip(2)
            reader.skip(reader.number(2))
        elif kind == QEMU_VM_SECTION_START:
            section = reader.number(4)
            self._live[section] = reader.text(1)
            reader.skip(8)  # instance, version
            if len(self._live) > MAX_LIVE:
                raise damaged("it has too many sections")
            self._live_body(section)
        elif kind in (QEMU_VM_SECTION_PART, QEMU_VM_SECTION_END):
            section = reader.number(4)
            if section not in self._live:
                raise damaged(f"section {section} continues without a start")
            if not self._began:
                self._began = True
                self._taker.begin()
            self._live_body(section)
            self.ended |= kind == QEMU_VM_SECTION_END and self._live[section] == "ram"
        elif kind == QEMU_VM_SECTION_FULL:
            self.ended |= self._began  # devices come after RAM, but for those that QEMU 8 and later must know early
            self._device()
        else:
            raise StreamError(f"the migration stream has a section of the unknown kind {kind}")

    def _live_body(self, section: int) -> None:
        """The body and the footer of a section that comes in parts."""
        reader, name = self._reader, self._live[section]
        if name == "ram":
            if self._ram is None:
                self._ram = RamRecords(reader, self._taker, self.page_size, self.capabilities, self._most)
            self._ram.read()
        elif name == STORAGE_ATTRIBUTES:
            while (flags := reader.number(8) & STATTR_FLAGS) != STATTR_FLAG_EOS:
                if flags == STATTR_FLAG_MORE:
                    reader.skip(reader.number(8))
                elif flags != STATTR_FLAG_DONE:
                    raise StreamError(f"the migration stream has storage attributes of the unknown kind {flags:#x}")
        elif name == HASH_TABLE:
            header = reader.number(4)
            while not header:  # else it is the table's size, or there is none
                _, n_valid, _ = record = (reader.number(4), reader.number(2), reader.number(2))
                if not any(record):
                    break
                reader.skip(n_valid * HASH_PTE_SIZE)
        else:
            self._skip_body(section, name)
            return
        if reader.peek() == QEMU_VM_SECTION_FOOTER:  # machine types up to 2.3 have none
            reader.skip(1)
            if reader.number(4) != section:
                raise damaged("a section's end does not match its beginning")

    def _device(self) -> None:
        """The section of a device."""
        reader = self._reader
        section, name, instance = reader.number(4), reader.text(1), reader.number(4)
        reader.skip(4)  # version
        if len(self.devices) == MAX_DEVICES:
            raise damaged("it has too many devices")
        start = reader.position
        if name in self._keep:
            reader.keep()
        device = Device(name, instance, start, self._skip_body(section, name))
        self.devices.append(device)
        if name in self._keep:
            self.states[device] = reader.kept()[: device.end - start]

    def _skip_body(self, section: int, name: str) -> int:
        """Skip a body of unknown length, and its footer. Returns where the footer begins.

        The stream does not say how long a section is. The description of the devices does, but it comes last, and is
        wrong about s390x's channel subsystem in QEMU 7.2. So this looks for a footer behind which the stream goes on.
        """
        reader = self._reader
        footer = bytes([QEMU_VM_SECTION_FOOTER]) + section.to_bytes(4, "big")
        begin = reader.position
        while True:
            found = reader.data.find(footer, reader.at, reader.end)
            if found >= 0:
                reader.at = found
                if self._goes_on(len(footer)):
                    reader.at += len(footer)
                    return reader.position - len(footer)
                reader.at += 1
                continue
            reader.at = max(reader.at, reader.end - len(footer) + 1)
            if self._longest is not None and reader.position - begin > self._longest:
                raise StreamError(f"the migration stream has a section {name!r} that does not end")
            reader.need(reader.end - reader.at + 1)

    def _goes_on(self, behind: int) -> bool:
        """Whether what comes ``behind`` so many bytes is another section, or the end."""
        reader = self._reader

        def number(at: int, size: int) -> int:
            reader.need(behind + at + size)
            start = reader.at + behind + at
            return int.from_bytes(reader.data[start : start + size], "big")

        try:
            kind = number(0, 1)
            if kind == QEMU_VM_EOF:
                return self._ends(number)
            if kind == QEMU_VM_COMMAND:
                return number(1, 2) <= MAX_COMMAND
            section = number(1, 4)
            if kind in (QEMU_VM_SECTION_PART, QEMU_VM_SECTION_END):
                return section in self._live
            if kind not in (QEMU_VM_SECTION_START, QEMU_VM_SECTION_FULL) or not (length := number(5, 1)):
                return False
            number(6, length)
            name = reader.data[reader.at + behind + 6 : reader.at + behind + 6 + length]
            return name.isascii() and name.decode().isprintable()
        except EOFError:
            return False

    def _ends(self, number: Callable[[int, int], int]) -> bool:
        """Whether the zero that comes next ends the stream: nothing follows it, or a description does."""
        try:
            following = number(1, 1)
        except EOFError:
            return True
        return following == QEMU_VM_VMDESCRIPTION and number(6, 1) == ord("{")

    def _configuration(self) -> None:
        reader = self._reader
        self.machine = reader.text(4)
        while reader.peek() == QEMU_VM_SUBSECTION:
            reader.skip(1)
            name = reader.text(1)
            reader.skip(4)
            if name == "configuration/target-page-bits":
                bits = reader.number(4)
                if bits not in PAGE_BITS:
                    raise damaged(f"pages of 2^{bits} bytes")
                self.page_size = 1 << bits
            elif name == "configuration/capabilities":
                count = reader.number(4)
                if count > MAX_CAPABILITIES:
                    raise damaged(f"{count} capabilities")
                self.capabilities = frozenset(reader.text(1) for _ in range(count))
            elif name == "configuration/uuid":
                reader.skip(16)
            else:
                raise StreamError(f"the migration stream has an unknown part {name!r}")
