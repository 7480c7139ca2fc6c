"""A riscv64 hart behind JTAG, for OpenOCD: a debug module that OpenOCD's ``remote_bitbang`` adapter drives.

The hart runs no program: it is running or halted, and its registers and 64 KiB of RAM keep what they hold.

Sources: RISC-V External Debug Support 0.13.2, chapters 3 (debug module) and 6.1 (JTAG transport); IEEE 1149.1 (the
states of a TAP); doc/manual/jtag/drivers/remote_bitbang.txt of OpenOCD (the characters).
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lab.live import wait_for

RAM: Final = 0x80000000
SIZE: Final = 1 << 16
#: What the JTAG port says that it is.
IDENTITY: Final = 0x10E31913
#: Registers by their number in an abstract command: CSRs, and x0 to x31 from 0x1000 on.
DCSR, DPC, MISA, MSTATUS, SATP = 0x7B0, 0x7B1, 0x301, 0x300, 0x180
#: The next states of a TAP, for TMS 0 and 1. 0 is Test-Logic-Reset; 4 is Shift-DR; 11 is Shift-IR.
_RESET, _CAPTURE_DR, _SHIFT_DR, _UPDATE_DR, _CAPTURE_IR, _SHIFT_IR, _UPDATE_IR = 0, 3, 4, 8, 10, 11, 15
_NEXT = [
    (1, 0), (1, 2), (3, 9), (4, 5), (4, 5), (6, 8), (6, 7), (4, 8),
    (1, 2), (10, 0), (11, 12), (11, 12), (13, 15), (13, 14), (11, 15), (1, 2),
]  # fmt: skip
_IDCODE, _DTMCS, _DMI = 0x01, 0x10, 0x11
_ADDRESS_BITS: Final = 7
_LISTENS = re.compile(r"Listening on port (\d+) for gdb connections")


class Hart:
    """A hart and its debug module.

    Attributes:
        halted: Whether it is halted.
        memory: Its RAM.
        registers: By number.
        stuck: Whether it stays halted, whatever the debug module says.
    """

    def __init__(self) -> None:
        self.halted = self.stuck = False
        self.memory = bytes(range(256)) * (SIZE // 256)
        self.registers = {0x1000 + i: i << 32 | i for i in range(32)} | {
            DCSR: 4 << 28 | 3, DPC: RAM + 0x100, MISA: 2 << 62 | 1 << 8, MSTATUS: 0, SATP: 0,
        }  # fmt: skip
        self._resumed = False
        self._data = [0, 0]
        self._error = 0
        self._control = 0
        self._bus_address = 0
        self._bus = 0
        self._bus_data = 0

    def read(self, register: int) -> int:
        """Read a register of the debug module."""
        if register in (0x04, 0x05):
            return self._data[register - 4]
        if register == 0x10:
            return self._control & 0x3FFFFC1
        if register == 0x11:
            nothing = bool(self._control >> 6 & 0xFFFFF)  # the hart that is selected is not there
            state = 3 << 14 if nothing else (3 << 8 if self.halted else 3 << 10) | (3 << 16 if self._resumed else 0)
            return 2 | 1 << 7 | state
        if register == 0x16:
            return 2 | self._error << 8
        if register == 0x38:
            return 1 << 29 | self._bus & 0x1F8000 | 64 << 5 | 0xF
        if register == 0x3C:
            data = self._bus_data & 0xFFFFFFFF
            if self._bus >> 15 & 1:
                self._read_bus()
            return data
        if register == 0x3D:
            return self._bus_data >> 32
        return int(self.halted) if register == 0x40 else 0

    def write(self, register: int, value: int) -> None:
        """Write a register of the debug module."""
        if register in (0x04, 0x05):
            self._data[register - 4] = value
        elif register == 0x10:
            self._control = value
            if value >> 31:
                self.halted, self._resumed = True, False
            elif value >> 30 & 1 and not self.stuck:
                self.halted, self._resumed = False, True
        elif register == 0x16:
            self._error &= ~(value >> 8 & 7)
        elif register == 0x17:
            self._command(value)
        elif register == 0x38:
            self._bus = value
        elif register == 0x39:
            self._bus_address = self._bus_address >> 32 << 32 | value
            if self._bus >> 20 & 1:
                self._read_bus()
        elif register == 0x3A:
            self._bus_address = self._bus_address & 0xFFFFFFFF | value << 32

    def _command(self, command: int) -> None:
        """An abstract command: access to a register of the hart."""
        number, size = command & 0xFFFF, command >> 20 & 7
        if command >> 24 or number not in self.registers or size not in (2, 3):
            self._error = 2
        elif command >> 17 & 1 and command >> 16 & 1:
            self.registers[number] = self._data[1] << 32 | self._data[0]
        elif command >> 17 & 1:
            self._data = [self.registers[number] & 0xFFFFFFFF, self.registers[number] >> 32]

    def _read_bus(self) -> None:
        size = 1 << (self._bus >> 17 & 7)
        at = self._bus_address - RAM
        self._bus_data = int.from_bytes(self.memory[at : at + size], "little") if 0 <= at < SIZE else 0
        if self._bus >> 16 & 1:
            self._bus_address += size


class Tap:
    """The hart's JTAG port."""

    def __init__(self, hart: Hart) -> None:
        self._hart = hart
        self._state = _RESET
        self._clock = 0
        self._instruction = _IDCODE
        self._shift = 0
        self._length = 0
        self._answer = 0

    @property
    def out(self) -> int:
        """TDO."""
        return self._shift & 1

    def pins(self, clock: int, mode: int, data: int) -> None:
        """Set TCK, TMS and TDI."""
        if clock and not self._clock:
            if self._state in (_SHIFT_DR, _SHIFT_IR):
                self._shift = self._shift >> 1 | data << (self._length - 1)
            self._state = _NEXT[self._state][mode]
            if self._state == _RESET:
                self._instruction = _IDCODE
            elif self._state == _CAPTURE_IR:
                self._shift, self._length = 1, 5
            elif self._state == _UPDATE_IR:
                self._instruction = self._shift
            elif self._state == _CAPTURE_DR:
                self._capture()
            elif self._state == _UPDATE_DR and self._instruction == _DMI:
                self._access()
        self._clock = clock

    def _capture(self) -> None:
        if self._instruction == _IDCODE:
            self._shift, self._length = IDENTITY, 32
        elif self._instruction == _DTMCS:
            self._shift, self._length = 1 | _ADDRESS_BITS << 4, 32
        elif self._instruction == _DMI:
            self._shift, self._length = self._answer, 34 + _ADDRESS_BITS
        else:
            self._shift, self._length = 0, 1

    def _access(self) -> None:
        operation, value, register = self._shift & 3, self._shift >> 2 & 0xFFFFFFFF, self._shift >> 34
        if operation == 1:
            value = self._hart.read(register)
        elif operation == 2:
            self._hart.write(register, value)
        self._answer = register << 34 | value << 2


def _serve(client: socket.socket, tap: Tap) -> None:
    """Do what the characters that come say, until there are no more."""
    while commands := client.recv(1 << 16):
        out = bytearray()
        for command in commands:
            if 48 <= command < 56:
                tap.pins(command >> 2 & 1, command >> 1 & 1, command & 1)
            elif command == ord("R"):
                out.append(48 + tap.out)
        if out:
            client.sendall(out)


@contextlib.contextmanager
def openocd(program: str, hart: Hart, directory: Path) -> Iterator[int]:
    """OpenOCD in front of a hart.

    Args:
        program: Its path.
        hart: The hart.
        directory: Where its log goes.

    Yields:
        The port of its stub.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)

        def serve() -> None:
            with contextlib.suppress(OSError):
                client, _ = server.accept()
                with client:
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    _serve(client, Tap(hart))

        thread = threading.Thread(target=serve)
        thread.start()
        script = f"""
            adapter driver remote_bitbang; remote_bitbang host 127.0.0.1; remote_bitbang port {server.getsockname()[1]}
            tcl_port disabled; telnet_port disabled; gdb_port 0
            jtag newtap riscv cpu -irlen 5 -expected-id {IDENTITY:#x}
            target create riscv.cpu riscv -chain-position riscv.cpu
            riscv set_mem_access sysbus
            init
        """
        log = directory / "openocd.log"
        with log.open("wb") as output:
            process = subprocess.Popen([program, "-c", script], stdout=output, stderr=output)
        try:
            assert wait_for(lambda: _LISTENS.search(log.read_text()), 60), log.read_text()
            yield int(_LISTENS.findall(log.read_text())[0])
        finally:
            process.terminate()
            process.wait(10)
            thread.join(30)
