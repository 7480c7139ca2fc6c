"""A QMP server that answers a capture as QEMU does, until it does not.

Run as a program it reads cases from standard input, a line of JSON each: ``[way, command, n, manner]``. When
``command`` comes for the n-th time (or, for "greeting", before any does) the server begins to behave in that manner.
"stream" instead of a command is what dump-guest-memory or migrate writes. A line of JSON, a :class:`Result`, says how
the capture went.

Source: docs/interop/qmp-spec.rst, qapi/*.json; what the guest holds is a dump of QEMU 7.2, and its flat view.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import io
import itertools
import json
import lzma
import mmap
import os
import re
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydump.errors import PydumpError
from pydump.interfaces.image import MemoryImage
from pydump_qemu_stream.elf_head import Head, Load, read_head
from pydump_qemu_stream.flat_view import Place, places
from pydump_source_qemu.limits import Limits
from pydump_source_qemu.live import QemuGuest
from pydump_source_qemu.options import QemuOptions
from pydump_source_qemu.pipe import Pipe
from pydump_source_qemu.session import Session
from pydump_source_qemu.watchdog import Patience

DATA = Path(__file__).parent / "data/qemu/nano-x86_64"
LIMITS = Limits(
    command=4, stream=1, snapshot=1, end=1, close=0.3, tail=8 << 20, watchdog=Patience(0.3, 0.2, 0.5, total=1.5)
)
#: How each way of a capture is asked for.
WAYS = {
    "stream": QemuOptions(access="stream"),
    "process": QemuOptions(access="process", pause="full"),
    "copy": QemuOptions(access="process", pause="copy"),
    "snapshot": QemuOptions(pause="snapshot"),
    "snapshot by a dump": QemuOptions(pause="snapshot"),
}
#: The commands that it knows.
LISTED = (
    "cont closefd dump-guest-memory getfd human-monitor-command migrate migrate-set-capabilities "
    "migrate-set-parameters object-add object-del qom-get query-dump query-migrate query-migrate-parameters "
    "query-status stop query-chardev query-memdev query-memory-devices query-target"
).split()
#: The fields of the CPU that its stream has, their numbers and sizes. Source: target/i386/machine.c of QEMU 7.2.
CPU_FIELDS = (("env.regs", 16, 8), ("env.eip", 1, 8), ("env.hflags", 1, 4), ("env.segs", 6, 4))
#: Of env.hflags: HF_LMA_MASK.
LONG_MODE = 1 << 14
#: Seconds that it pauses the guest for a snapshot.
SNAPSHOT_PAUSE = 0.01
#: The commands after which so many events come that they would show in memory if they were kept. Reading takes CPU.
FULL_FLOOD = {"query-status", "migrate"}
EVENT = b'{"event": "NIC_RX_FILTER_CHANGED", "timestamp": {"seconds": 1, "microseconds": 2}}\n'
#: Values of types that QEMU gives nowhere.
WRONG: dict[str, Any] = {"wrong type": 7, "list": [[]], "text": "text", "wrong member": 7, "no member": {}}


@dataclasses.dataclass
class Result:
    """How a capture went.

    Attributes:
        reached: Whether the server came to misbehave.
        kind: "done", the name of a PydumpError, or "internal" with what else was raised.
        message: The error's.
        same: Whether memory was read as it is.
        seconds: How long it took, until all processes had ended.
        memory: The most memory that this process has had, in bytes.
        left: Processes that did not end.
        commands: What the server was asked.
    """

    reached: bool
    kind: str
    message: str
    same: bool
    seconds: float
    memory: int
    left: int
    commands: list[str]


class Guest:
    """A guest's memory: QEMU's ELF dump of it, and where its parts lie in this process."""

    def __init__(self) -> None:
        self.elf = lzma.decompress((DATA / "elf.xz").read_bytes())
        self.flat_view = (DATA / "hmp-mtree.txt").read_text()
        self._memory = mmap.mmap(-1, len(self.elf))
        self._memory.write(self.elf)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        fd = os.memfd_create("elf")
        pipe = Pipe(fd)
        os.write(fd, self.elf)
        os.lseek(fd, 0, os.SEEK_SET)
        self.head: Head = read_head(pipe)
        pipe.close()

    def read(self, paddr: int, size: int) -> bytes:
        """Memory."""
        load = next(load for load in self.head.loads if load.paddr <= paddr < load.paddr + load.size)
        return self.elf[load.offset + paddr - load.paddr :][:size]

    def host_address(self, paddr: int) -> int:
        """Where in this process a byte of memory lies."""
        load = next(load for load in self.head.loads if load.paddr <= paddr < load.paddr + load.size)
        return self._base + load.offset + paddr - load.paddr

    def snapshot(self) -> bytes:
        """A migration stream. Source: migration/{savevm,ram}.c of QEMU 7.2."""
        blocks = {
            name: max(part.offset + part.size for part in parts)
            for name, parts in places(self.flat_view, self.head.guest.memory.ranges()).items()
        }
        out = io.BytesIO()
        out.write(struct.pack(">II", 0x5145564D, 3) + b"\x07" + struct.pack(">I", 10) + b"pc-i440fx-")
        out.write(b"\x01" + struct.pack(">I", 2) + b"\x03ram" + struct.pack(">II", 0, 4))
        out.write(struct.pack(">Q", sum(blocks.values()) | 0x04))
        for name, size in blocks.items():
            out.write(bytes([len(name)]) + name.encode() + struct.pack(">Q", size))
        out.write(struct.pack(">Q", 0x10) + b"\x7e" + struct.pack(">I", 2) + b"\x03" + struct.pack(">I", 2))
        for name, parts in places(self.flat_view, self.head.guest.memory.ranges()).items():
            new = bytes([len(name)]) + name.encode()
            for offset in range(0, blocks[name], 4096):
                page = self._page(parts, offset)
                flags = (0x08 if page.strip(b"\0") else 0x02) | (0 if new else 0x20)
                out.write(struct.pack(">Q", offset | flags) + new + (page if flags & 0x08 else b"\0"))
                new = b""
        out.write(struct.pack(">Q", 0x10) + b"\x7e" + struct.pack(">I", 2))
        cpu = struct.pack(">16QQI6I", *range(1, 17), 0x1234, LONG_MODE, *[0] * 6)
        out.write(b"\x04" + struct.pack(">I", 3) + b"\x03cpu" + struct.pack(">II", 0, 12) + cpu)
        fields = [{"name": name, "array_len": count, "size": size} for name, count, size in CPU_FIELDS]
        described = json.dumps({"devices": [{"name": "cpu", "instance_id": 0, "fields": fields}]}).encode()
        out.write(b"\x7e" + struct.pack(">I", 3) + b"\0\x06" + struct.pack(">I", len(described)) + described)
        return out.getvalue()

    def _page(self, parts: list[Place], offset: int) -> bytes:
        for part in parts:
            if part.offset <= offset < part.offset + part.size:
                return self.read(part.paddr + offset - part.offset, 4096)
        return bytes(4096)


class Server:
    """A server for one client.

    Args:
        path: Its socket.
        guest: What it has.
        command, n, manner: When and how it begins to misbehave; no manner means that it does not.
        describes: Whether it can describe the CPUs of its guest.
    """

    def __init__(self, path: str, guest: Guest, command: str, n: int, manner: str, *, describes: bool = True) -> None:
        self._guest = guest
        self._describes = describes
        self._trouble = command, n, manner
        self.commands: list[str] = []
        self.reached = False
        self._state = "running"
        self._fds: dict[str, int] = {}
        self._passed: list[int] = []
        self._end = threading.Event()
        self._writers: list[threading.Thread] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(path)
        self._socket.listen(1)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hang up."""
        self._end.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        for thread in (self._thread, *self._writers):
            thread.join(10)
        self._socket.close()
        for fd in (*self._passed, *self._fds.values()):
            os.close(fd)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            self._client, _ = self._socket.accept()
            with self._client:
                self._talk()

    def _talk(self) -> None:
        greeting = {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}
        if self._due("greeting"):
            return self._misbehave({}, {"QMP": greeting})
        self._send({"QMP": greeting})
        rest = ""
        while True:
            data, fds, _, _ = socket.recv_fds(self._client, 1 << 16, 4)
            self._passed += fds
            if not data:
                return None
            rest = (rest + data.decode()).lstrip()
            while rest:  # QEMU reads JSON as it comes, with or without ends of lines
                try:
                    request, end = json.JSONDecoder().raw_decode(rest)
                except ValueError:
                    break
                rest = rest[end:].lstrip()
                if not self._reply(request):
                    return None

    def _reply(self, request: dict[str, Any]) -> bool:
        name = request["execute"]
        if name == "human-monitor-command":
            name = request["arguments"]["command-line"].split()[0]
        self.commands.append(name)
        answer = self._answer(request["execute"], request.get("arguments", {}))
        if self._due(name):
            self._misbehave(request, answer)
            return self._trouble[2] in WRONG  # then it goes on with the next command
        self._send({**answer, "id": request.get("id")})
        return True

    def _due(self, name: str) -> bool:
        """Whether it is time to misbehave; from then on the same command always is."""
        command, n, manner = self._trouble
        due = bool(manner) and name == command and (name == "greeting" or self.commands.count(name) >= n)
        self.reached |= due
        return due

    def _send(self, message: dict[str, Any]) -> None:
        self._client.sendall(json.dumps(message).encode() + b"\n")

    def _answer(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """What QEMU would say."""
        result: Any = {}
        if name == "query-commands":
            result = [{"name": name} for name in LISTED]
        elif name == "query-status":
            result = {"status": self._state, "running": self._state == "running", "singlestep": False}
        elif name == "query-chardev":
            result = [{"label": "qmp", "filename": "unix:qmp", "frontend-open": True}]
        elif name == "query-memdev":
            result = [{"size": 1 << 21, "share": False, "prealloc": False}]
        elif name == "query-dump":
            result = {"status": "completed", "completed": 1, "total": 1}
        elif name == "query-migrate":
            result = {"status": "completed"}
        elif name == "query-migrate-parameters":
            result = {"max-bandwidth": 1 << 27}
        elif name == "query-memory-devices":
            result = []
        elif name == "query-target":
            result = {"arch": "x86_64" if self._describes else "sparc"}
        elif name == "qom-get" and arguments["property"] == "suppress-vmdesc":
            result = False
        elif name == "qom-get":
            return {"error": {"class": "DeviceNotFound", "desc": "Device '/objects/pydump' not found"}}
        elif name in ("stop", "cont"):
            self._run(name == "cont")
        elif name == "getfd":
            self._fds[arguments["fdname"]] = self._passed.pop()
        elif name == "closefd":
            fd = self._fds.pop(arguments["fdname"], None)
            if fd is None:
                return {"error": {"class": "GenericError", "desc": "File descriptor named 'pydump' not found"}}
            os.close(fd)
        elif name == "dump-guest-memory":
            self._write(arguments["protocol"], self._guest.elf)
        elif name == "migrate":
            if self._state == "running":
                self._run(False)
                time.sleep(SNAPSHOT_PAUSE)
            self._run(True)
            self._write(arguments["uri"], self._guest.snapshot())
        elif name == "human-monitor-command":
            result = self._human(arguments["command-line"])
        return {"return": result}

    def _human(self, line: str) -> str:
        if line.startswith("info"):
            return self._guest.flat_view
        paddr = int(line.split()[1], 16)
        return f"Host virtual address for {paddr:#x} (ram) is {self._guest.host_address(paddr):#x}\r\n"

    def _run(self, runs: bool) -> None:
        self._state = "running" if runs else "paused"
        seconds, microseconds = divmod(time.time_ns() // 1000, 10**6)
        self._send(
            {"event": "RESUME" if runs else "STOP", "timestamp": {"seconds": seconds, "microseconds": microseconds}}
        )

    def _write(self, protocol: str, data: bytes) -> None:
        fd = self._fds.pop(protocol.removeprefix("fd:"))
        self.commands.append("stream")
        manner = self._trouble[2] if self._due("stream") else ""

        def write() -> None:
            with contextlib.suppress(OSError), open(fd, "wb", buffering=0) as file:
                for piece in _pieces(data, manner):
                    view = memoryview(piece)
                    while len(view):
                        view = view[file.write(view) :]
                    if self._end.wait(0.02 if manner == "drip" else 0):
                        return
                if manner == "silence":
                    self._end.wait()

        self._writers.append(threading.Thread(target=write, daemon=True))
        self._writers[-1].start()

    def _misbehave(self, request: dict[str, Any], answer: dict[str, Any]) -> None:
        manner = self._trouble[2]
        if manner in WRONG:
            self._send(self._wrong(manner, answer) | ({"id": request["id"]} if "id" in request else {}))
        elif manner == "silence":
            while self._client.recv(1 << 16):
                pass
        elif manner in ("endless line", "flood"):
            piece = b"x" * 65536 if manner == "endless line" else EVENT * 800
            # Not at full speed: other cases run beside this one.
            pace = 0.05 if manner == "flood" and self._trouble[0] not in FULL_FLOOD else 0.002
            while True:
                self._client.sendall(piece)
                time.sleep(pace)
        elif manner == "drip":
            for byte in itertools.cycle(b'{"return": ['):
                self._client.sendall(bytes([byte]))
                time.sleep(0.02)
        elif manner == "deep":
            self._client.sendall(b"[" * (1 << 20) + b"\n")
            self._client.recv(1 << 16)

    @staticmethod
    def _wrong(manner: str, answer: dict[str, Any]) -> dict[str, Any]:
        key = next(iter(answer))
        value = answer[key]
        if manner == "wrong member" and isinstance(value, dict) and value:
            return {key: dict.fromkeys(value, 7)}
        if manner == "wrong member" and isinstance(value, list):
            return {key: [dict.fromkeys(row) for row in value]}
        return {key: WRONG[manner]}


def _pieces(data: bytes, manner: str) -> Iterator[bytes]:
    """What is written of a stream."""
    if manner == "silence":
        return
    if manner == "close":
        data = data[: len(data) // 2]
    if manner == "drip":
        yield from (data[i : i + 1] for i in range(len(data)))
    elif manner == "wrong type":
        yield re.sub(rb"^.{64}", bytes(range(64)), data, flags=re.DOTALL)
    else:
        yield data
    while manner in ("flood", "endless line"):
        yield bytes(1 << 16) if manner == "endless line" else data[-(1 << 16) :]


def run(guest: Guest, way: str, command: str, n: int, manner: str) -> Result:
    """Capture a guest from a server."""
    began = time.monotonic()
    kind, message, same = "done", "", False
    with tempfile.TemporaryDirectory(prefix="pydump-hostile-") as directory:
        path = os.path.join(directory, "qmp")
        server = Server(path, guest, command, n, manner, describes=way != "snapshot by a dump")
        try:
            session = Session.connect(path, 2, LIMITS)
            try:
                live = QemuGuest(session, WAYS[way])
                with live.capture(live.view().guest().memory) as image:
                    same = all(_read(image, load) == guest.read(load.paddr, load.size) for load in guest.head.loads)
            finally:
                session.close()
        except PydumpError as error:
            kind, message = type(error).__name__, str(error)
        except BaseException as error:
            kind, message = "internal", repr(error)
        left = _children(time.monotonic() + 8)
        server.close()
    return Result(server.reached, kind, message, same, time.monotonic() - began, _peak_memory(), left, server.commands)


def _read(image: MemoryImage, load: Load) -> bytes:
    buffer = bytearray(load.size)
    image.read_into(load.paddr, memoryview(buffer))
    return bytes(buffer)


def _children(deadline: float) -> int:
    """Whether processes that this one has started are left at the deadline."""
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
        except ChildProcessError:
            return 0
    return 1


def _peak_memory() -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    """Run the cases."""
    guest = Guest()
    for line in sys.stdin:
        print(json.dumps(dataclasses.asdict(run(guest, *json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
