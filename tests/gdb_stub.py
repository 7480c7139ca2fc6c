"""A stub on a real socket, which answers as a test says."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from pydump_source_gdb.wire import framed

#: Gives the bytes that answer a packet; None to say nothing.
Answer = Callable[[bytes], bytes | None]

TARGET = b"""<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target>
<architecture>riscv:rv64</architecture><xi:include href="cpu.xml"/></target>"""
NAMES = b"zero ra sp gp tp t0 t1 t2 fp s1 a0 a1 a2 a3 a4 a5 a6 a7 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 t3 t4 t5 t6 pc"
CPU = b'<feature name="org.gnu.gdb.riscv.cpu">%b</feature>' % b"".join(
    b'<reg name="%b" bitsize="64"/>' % name for name in NAMES.split()
)
#: What ``info mtree -f`` of QEMU 7.2 prints of a machine with 64 KiB of RAM, but for what is not memory.
FLAT_VIEW = """FlatView #0
 AS "memory", root: system
 Root memory region: system
  0000000000001000-0000000000001fff (prio 0, rom): riscv_virt_board.mrom
  0000000002000000-0000000002003fff (prio 0, i/o): riscv.aclint.swi
  0000000080000000-000000008000ffff (prio 0, ram): riscv_virt_board.ram

"""


class Machine:
    """A riscv64 machine with 64 KiB of RAM behind QEMU's stub.

    Attributes:
        asked: The packets that came.
        status, version: What the monitor says.
        physical: The mode of physical memory.
    """

    def __init__(
        self, *, status: str = "paused", version: str = "7.2.22Debian 1:7.2+dfsg-7", unasked: bytes = b""
    ) -> None:
        self.asked: list[bytes] = []
        self.status, self.version = status, version
        self.unasked = unasked
        self.physical = b"0"
        self.memory = bytes(range(256)) * 256

    def __call__(self, packet: bytes) -> bytes | None:
        self.asked.append(packet)
        answer = self.answer(packet)
        return None if answer is None else b"".join(map(framed, answer))

    def answer(self, packet: bytes) -> list[bytes] | None:
        """The payloads that answer a payload."""
        documents = {b"target.xml": TARGET, b"cpu.xml": CPU}
        name, _, rest = packet.partition(b":")
        if name == b"qSupported":
            return [b"PacketSize=1000;qXfer:features:read+;vContSupported+;multiprocess+"]
        if packet == b"qqemu.PhyMemMode":
            return [self.physical]
        if name == b"Qqemu.PhyMemMode":
            self.physical = rest
            return [b"OK"]
        if packet.startswith(b"qRcmd,"):
            return self.monitor(bytes.fromhex(packet[6:].decode()).decode())
        if packet.startswith(b"qXfer:features:read:"):
            document = documents[packet.split(b":")[3]]
            at, size = (int(word, 16) for word in packet.split(b":")[4].split(b","))
            return [(b"m" if at + size < len(document) else b"l") + document[at : at + size]]
        if packet == b"qfThreadInfo":
            return [b"m01"]
        if packet == b"qsThreadInfo":
            return [b"l"]
        if packet == b"g":
            return [b"".join(number.to_bytes(8, "little").hex().encode() for number in range(33))]
        if packet[:1] == b"m":
            at, size = (int(word, 16) for word in packet[1:].split(b","))
            part = self.memory[at - 0x80000000 :][:size] if at >= 0x80000000 else b""
            return [part.ljust(size, b"\0").hex().encode()]
        return [b"OK"] if packet[:1] in (b"H", b"D") else [b""]

    def monitor(self, command: str) -> list[bytes]:
        """What the monitor prints."""
        text = {
            "info status": f"VM status: {self.status}\r\n",
            "info version": f"{self.version}\r\n",
            "info mtree -f": FLAT_VIEW,
        }.get(command, "")
        return [b"O" + line.encode().hex().encode() for line in text.splitlines(keepends=True)] + [b"OK"]


@contextlib.contextmanager
def serving(path: Path, answer: Answer, *, unasked: bytes = b"") -> Iterator[list[bytes]]:
    """A stub at a UNIX socket, for any number of clients, one after the other.

    Args:
        path: The socket.
        answer: What it answers.
        unasked: What it sends at once.

    Yields:
        All that came, a piece for each client.
    """
    came: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        server.settimeout(0.05)
        ending = threading.Event()

        def serve() -> None:
            while not ending.is_set():
                try:
                    client, _ = server.accept()
                except TimeoutError:
                    continue
                came.append(b"")
                with client, contextlib.suppress(OSError):
                    client.settimeout(0.05)
                    client.sendall(unasked)
                    _talk(client, answer, came, ending)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield came
        finally:
            ending.set()
            thread.join()


def _talk(client: socket.socket, answer: Answer, came: list[bytes], ending: threading.Event) -> None:
    data = b""
    while not ending.is_set():
        try:
            piece = client.recv(1 << 16)
        except TimeoutError:
            continue
        if not piece:
            return
        came[-1] += piece
        data += piece
        while b"$" in data and (end := data.find(b"#", data.index(b"$"))) >= 0 and len(data) >= end + 3:
            packet, checksum, data = data[data.index(b"$") + 1 : end], data[end + 1 : end + 3], data[end + 3 :]
            if checksum != b"%02x" % (sum(packet) & 0xFF):
                said: bytes | None = b"-"
            else:
                said = answer(packet)
                said = None if said is None else b"+" + said
            if said is not None:
                client.settimeout(10)
                client.sendall(said)
                client.settimeout(0.05)
