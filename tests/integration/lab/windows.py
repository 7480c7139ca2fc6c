"""A made-up Windows guest under QEMU, paused: memory, registers and the note of its driver are put in place."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from judges import require
from lab.boot import running
from lab.live import Live, wait_for

from windows_guest import BLOCKS, WindowsGuest

#: Free places in the guest's low memory: for the note, and for what fw_cfg is asked.
NOTE, ASK = 0x90000, 0x9F000
#: fw_cfg's ports and selectors. Source: QEMU's docs/specs/fw_cfg.rst.
SELECTOR, DATA, DMA, FILE_DIR = 0x510, 0x511, 0x514, 0x19
#: control of a DMA request: select an item, and write it.
SELECT, WRITE = 0x08, 0x10
TIMEOUT = 60


class Qtest:
    """QEMU's qtest protocol: ports and memory as a guest's program would use them."""

    def __init__(self, path: Path) -> None:
        assert wait_for(path.exists)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._socket.settimeout(TIMEOUT)
        self._lines = self._socket.makefile("r")

    def ask(self, command: str) -> str:
        """Run a command and give its answer."""
        self._socket.sendall(command.encode() + b"\n")
        answer = self._lines.readline().split()
        assert answer[0] == "OK", f"{command}: {answer}"
        return answer[1] if len(answer) > 1 else ""

    def write(self, paddr: int, data: bytes) -> None:
        """Write memory."""
        self.ask(f"write {paddr:#x} {len(data):#x} 0x{data.hex()}")

    def read_ports(self, n: int) -> bytes:
        """The next bytes of the item that is selected."""
        return bytes(int(self.ask(f"inb {DATA:#x}"), 0) for _ in range(n))

    def file(self, name: str) -> int:
        """The selector of fw_cfg's file ``name``."""
        self.ask(f"outw {SELECTOR:#x} {FILE_DIR:#x}")
        for _ in range(int.from_bytes(self.read_ports(4), "big")):
            _, select, _, found = struct.unpack(">IHH56s", self.read_ports(64))
            if found.rstrip(b"\0").decode() == name:
                return int(select)
        raise AssertionError(f"fw_cfg has no file {name}")

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._socket.close()


def _announce(qtest: Qtest, size: int) -> None:
    """What the driver of virtio-win does: FWCfgVMCoreInfo, which says where the note is.

    Source: QEMU's docs/specs/vmcoreinfo.rst.
    """
    select = qtest.file("etc/vmcoreinfo")
    info = struct.pack("<HHIQ", 0, 1, size, NOTE)
    request = struct.pack(">IIQ", select << 16 | SELECT | WRITE, len(info), ASK + 16)
    qtest.write(ASK, request + info)
    for offset, word in ((0, 0), (4, ASK)):  # big-endian; the second write starts it
        qtest.ask(f"outl {DMA + offset:#x} {int.from_bytes(word.to_bytes(4, 'big'), 'little'):#x}")
    qtest.write(ASK, bytes(32))


class Stub:
    """QEMU's gdb stub, as far as setting registers takes it. gdb itself cannot set control registers."""

    def __init__(self, path: Path) -> None:
        assert wait_for(path.exists)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._socket.settimeout(TIMEOUT)
        self._file = self._socket.makefile("rb")
        self.ask("qSupported:multiprocess+;xmlRegisters=i386")
        text = re.sub("<!--.*?-->", "", self._description("target.xml"), flags=re.S)
        names = re.findall(r'<reg name="(\w+)" bitsize="(\d+)"', text)
        #: Number and bytes of each register.
        self.registers = {name: (i, int(bits) // 8) for i, (name, bits) in enumerate(names)}

    def _description(self, name: str) -> str:
        """An XML description, with those that it includes."""
        text = ""
        while True:
            part = self.ask(f"qXfer:features:read:{name}:{len(text):x},3f0")
            text += part[1:]
            if part[0] == "l":
                break
        return re.sub(r'<xi:include href="([^"]+)"/>', lambda match: self._description(match[1]), text)

    def ask(self, packet: str) -> str:
        """Send a packet and give the answer to it."""
        data = packet.encode()
        self._socket.sendall(b"$%s#%02x" % (data, sum(data) % 256))
        while True:
            byte = self._file.read(1)
            assert byte, "QEMU closed the connection"
            if byte == b"$":
                break
        answer = b""
        while (byte := self._file.read(1)) != b"#":
            answer += byte
        self._file.read(2)
        self._socket.sendall(b"+")
        if answer[:1] == b"T":  # it says unasked that the guest is paused
            return self.ask(packet) if packet[0] != "?" else ""
        return answer.decode()

    def set(self, cpu: int, values: dict[str, int]) -> None:
        """Set registers of a CPU."""
        assert self.ask(f"Hgp1.{cpu + 1}") == "OK"
        for name, value in values.items():
            number, size = self.registers[name]
            assert self.ask(f"P{number:x}={value.to_bytes(size, 'little').hex()}") == "OK", name

    def close(self) -> None:
        """Close the connection; the guest stays paused."""
        self._file.close()
        self._socket.close()


def _set_registers(guest: WindowsGuest, path: Path) -> None:
    """Set the registers of all CPUs."""
    stub = Stub(path)
    names = {"rflags": "eflags", "rip": "rip"}
    for i in range(guest.n_cpus):
        system, general = guest.system_registers(i), guest.registers(i)
        # Segments first, as they are in real mode; long mode takes PAE first, and paging last.
        control = {"efer": 0x500} if guest.bits == 64 else {}
        control |= {name: system[name] for name in ("cr4", "cr3", "cr0")}
        if guest.bits == 32:
            general = {"r" + name[1:] if name[0] == "e" and len(name) == 3 and name != "es" else name: value
                       for name, value in general.items()}  # fmt: skip
        stub.set(i, {names.get(name, name): value for name, value in general.items()} | control)
    stub.close()


@contextlib.contextmanager
def staged(guest: WindowsGuest, header: bytes, directory: Path, qemu: tuple[str, ...] = ()) -> Iterator[Live]:
    """``guest`` under QEMU, paused, with ``header`` as its driver's note. Its memory is ``guest.ram`` at the end."""
    require(qemu or shutil.which("qemu-system-x86_64"), "qemu-system-x86_64", "apt install qemu-system-x86")
    note = struct.pack("<III", 11, len(header), 0) + b"VMCOREINFO\0\0" + header
    guest.ram[NOTE : NOTE + len(note)] = note
    guest.ram[ASK : ASK + 32] = bytes(32)
    size = sum(BLOCKS[-1])
    ram = directory / "ram"
    ram.write_bytes(guest.ram)
    places = {name: directory / name for name in ("pydump.sock", "qtest.sock", "gdb.sock")}
    command = [
        *qemu, "qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg", "-S",
        "-smp", str(guest.n_cpus), "-machine", "pc,memory-backend=ram", "-m", f"{size >> 20}M", "-device", "vmcoreinfo",
        "-object", f"memory-backend-file,id=ram,size={size},mem-path={ram},share=on",
        "-qtest", f"unix:{places['qtest.sock']},server=on,wait=off", "-qtest-log", "none",
        "-gdb", f"unix:{places['gdb.sock']},server=on,wait=off",
        "-qmp", f"unix:{places['pydump.sock']},server=on,wait=off",
    ]  # fmt: skip
    with running(command, directory) as (qmp, process):
        qtest = Qtest(places["qtest.sock"])
        _announce(qtest, len(note))
        qtest.close()
        _set_registers(guest, places["gdb.sock"])
        yield Live(qmp, places["pydump.sock"], process)
