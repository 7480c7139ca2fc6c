"""A Linux guest whose only program fills a file and then counts, in two pages that are never more than one apart."""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lab.boot import BOOT_TIMEOUT, MACHINES, Qmp, running

#: What each of the two pages begins with; the counter is behind it. It stands at the start of no other page.
MARK: Final = struct.pack("<2Q", 0x676E69746E756F43, 0x7365676170206E69)
READY: Final = b"LAB-READY\n"
#: Where the program is, its two pages, and a MiB that it writes to the file again and again.
BASE, FIRST, SECOND, BUFFER = 0x400000, 0x402000, 0x403000, 0x500000


def program(fill: int) -> bytes:
    """A static x86_64 ELF file.

    Args:
        fill: MiB that it writes to ``/f``, which stay in the page cache.

    Source: System V ABI, AMD64 supplement; syscalls of Linux: open 2, write 1.
    """

    def load(register: bytes, value: int) -> bytes:  # mov $value, %register
        return register + struct.pack("<I", value)

    rax, rdi, rsi, rdx, rcx = b"\x48\xc7\xc0", b"\x48\xc7\xc7", b"\x48\xc7\xc6", b"\x48\xc7\xc2", b"\x48\xc7\xc1"
    syscall = b"\x0f\x05"
    begin = 64 + 56  # behind the headers
    texts = begin + 0x200
    write = (
        b"\x48\x89\xdf"  # mov %rbx, %rdi
        + load(rsi, BUFFER)
        + load(rdx, 1 << 20)
        + load(rax, 1)
        + syscall
        + b"\x49\xff\xcc"  # dec %r12
    )
    code = (
        load(rdi, BUFFER)
        + load(rcx, (1 << 20) // 8)
        + load(rax, 0x5A5A5A5A)
        + b"\xf3\x48\xab"  # rep stosq
        + load(rdi, BASE + texts)
        + load(rsi, 0o101)  # O_CREAT | O_WRONLY
        + load(rdx, 0o600)
        + load(rax, 2)
        + syscall
        + b"\x48\x89\xc3"  # mov %rax, %rbx
        + load(b"\x49\xc7\xc4", fill)  # r12
        + b"\x4d\x85\xe4"  # test %r12, %r12
        + b"\x74" + struct.pack("b", len(write) + 2)  # jz
        + write
        + b"\xeb" + struct.pack("b", -(len(write) + 2 + 2 + 3))  # jmp to the test
    )  # fmt: skip
    for i in range(2):
        code += b"\x48\xb8" + MARK[8 * i : 8 * i + 8]  # mov $…, %rax
        for page in (FIRST, SECOND):
            code += b"\x48\x89\x04\x25" + struct.pack("<I", page + 8 * i)  # mov %rax, (…)
    code += load(rdi, 1) + load(rsi, BASE + texts + 8) + load(rdx, len(READY)) + load(rax, 1) + syscall
    code += (
        b"\x48\xff\x04\x25" + struct.pack("<I", FIRST + 16)  # incq (first)
        + b"\x48\x8b\x04\x25" + struct.pack("<I", FIRST + 16)  # mov (first), %rax
        + b"\x48\x89\x04\x25" + struct.pack("<I", SECOND + 16)  # mov %rax, (second)
        + b"\xeb\xe6"  # jmp, 26 bytes back
    )  # fmt: skip
    assert len(code) <= texts - begin
    size = texts + 8 + len(READY)
    ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, BASE + begin, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 7, 0, BASE, BASE, size, 4 << 20, 4096)
    return (header + segment + code).ljust(texts, b"\0") + b"/f".ljust(8, b"\0") + READY


def initramfs(contents: bytes) -> bytes:
    """A cpio archive with a console and ``/init``.

    Source: Documentation/driver-api/early-userspace/buffer-format.rst of Linux.
    """
    archive = b""
    entries = (
        ("dev", 0o40755, b"", (0, 0)),
        ("dev/console", 0o20600, b"", (5, 1)),
        ("init", 0o100755, contents, (0, 0)),
    )
    for number, (name, mode, data, device) in enumerate((*entries, ("TRAILER!!!", 0, b"", (0, 0))), 1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
        archive += b"070701" + "".join(f"{field:08x}" for field in fields).encode() + name.encode() + b"\0"
        archive += bytes(-len(archive) % 4) + data
        archive += bytes(-len(archive) % 4)
    return archive


@contextlib.contextmanager
def counting_guest(directory: Path, kernel: Path, *, memory: int = 256, fill: int = 0) -> Iterator[tuple[Qmp, str]]:
    """A running guest that counts.

    Args:
        directory: For its files.
        kernel: Of x86_64.
        memory: MiB.
        fill: MiB of page cache.

    Yields:
        The caller's monitor, and what pydump calls the guest.
    """
    machine, console = MACHINES["x86_64"], directory / "console.log"
    (directory / "initramfs").write_bytes(initramfs(program(fill)))
    command = [
        machine.qemu, "-nodefaults", "-display", "none", "-no-reboot", "-accel", "tcg",
        "-object", f"memory-backend-memfd,id=ram,size={memory}M,share=on",
        "-machine", f"{machine.machine},memory-backend=ram", *machine.arguments, "-m", f"{memory}M",
        "-qmp", f"unix:{directory}/pydump.sock,server=on,wait=off",
        "-chardev", f"file,id=console,path={console}", "-serial", "chardev:console",
        "-kernel", str(kernel), "-initrd", str(directory / "initramfs"),
        "-append", f"console={machine.console} panic=-1 rootfstype=ramfs",
    ]  # fmt: skip
    with running(command, directory) as (qmp, process):
        deadline = time.monotonic() + BOOT_TIMEOUT
        while not console.exists() or READY.strip() not in console.read_bytes():
            assert process.poll() is None and time.monotonic() < deadline, "the guest did not get ready"
            time.sleep(0.1)
        yield qmp, f"qmp:{os.path.join(directory, 'pydump.sock')}"
