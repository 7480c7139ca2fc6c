"""How the memory of a running guest is reached, and what that costs its host."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab.boot import Qmp
from lab.live import SWEPT, Live, in_step, live_guest, require_snapshots, swept, wait_for

import pydump as api

Pydump = Callable[..., subprocess.CompletedProcess[str]]
#: MiB of a guest that uses 49 of them.
MEMORY = 160
#: For its registers QEMU begins a dump, and has written what fits into a pipe before it learns that nobody reads on.
PIPE = 1 << 20
#: Ways to have guest memory: arguments of QEMU for ``{size}`` and a directory for files.
BACKENDS = {
    "private": "memory-backend-ram,id=m,size={size}",
    "memfd": "memory-backend-memfd,id=m,share=on,size={size}",
    "private memfd": "memory-backend-memfd,id=m,share=off,size={size}",
    "shared without a file": "memory-backend-ram,id=m,share=on,size={size}",
    "file": "memory-backend-file,id=m,share=on,size={size},mem-path={path}/ram",
    "private file": "memory-backend-file,id=m,share=off,size={size},mem-path={path}/ram",
}
QXL = ("-device", "qxl-vga")


def backend(kind: str, directory: Path | str = "/dev/shm", memory: int = MEMORY) -> tuple[str, ...]:
    """Arguments that give a guest memory of a kind."""
    return "-object", BACKENDS[kind].format(size=f"{memory}M", path=directory), "-machine", "memory-backend=m"


def allocated(live: Live, *kinds: str) -> int:
    """Bytes that the host has allocated for QEMU's memory, as the kernel counts them."""
    status = Path(f"/proc/{live.process.pid}/status").read_text()
    values = dict(line.split(":", 1) for line in status.splitlines())
    return sum(int(values[name].split()[0]) << 10 for name in kinds or ("RssAnon", "RssShmem"))


def settled(live: Live) -> int:
    """Bytes that are allocated when the guest's program has written to all pages that it ever writes to."""
    assert wait_for(lambda: live.qmp.monitor(f"xp /1wx {SWEPT[-1]:#x}").split()[-1] != "0x00000000")
    assert live.is_running()
    return allocated(live)


@pytest.fixture
def on_tmpfs() -> Iterator[Path]:
    """A directory whose files lie in memory."""
    with tempfile.TemporaryDirectory(prefix="pydump-", dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.mark.parametrize(
    ("kind", "access"),
    [*((kind, "auto") for kind in BACKENDS), *((k, "process") for k in ("memfd", "shared without a file", "file"))],
)
def test_memory_that_was_never_written_to_stays_free(
    tmp_path: Path, on_tmpfs: Path, pydump: Pydump, kind: str, access: str
) -> None:
    ours, qemus = tmp_path / "ours", tmp_path / "qemus"
    with live_guest(tmp_path, memory=MEMORY, arguments=backend(kind, on_tmpfs)) as live:
        before = settled(live)
        for pause in ("copy", "full", "none"):
            done = pydump("-v", "dump", "--pause", pause, "--qemu-access", access, live.source, ours, "--force")
            assert "warning" not in done.stderr.replace("was captured while", ""), pause
        assert allocated(live) - before <= PIPE
        live.qmp.command("stop")
        pydump("dump", "--format", "elf", "--compat", "qemu", "--qemu-access", access, live.source, ours, "--force")
        assert allocated(live) - before <= PIPE
        live.qmp.command("dump-guest-memory", paging=False, protocol=f"file:{qemus}")
    assert ours.read_bytes() == qemus.read_bytes()


@pytest.mark.parametrize("access", ["auto", "shared"])
def test_what_is_shared_is_mapped_and_the_rest_is_read_otherwise(tmp_path: Path, pydump: Pydump, access: str) -> None:
    ours, qemus = tmp_path / "ours", tmp_path / "qemus"
    with live_guest(tmp_path, memory=MEMORY, arguments=(*backend("memfd"), *QXL)) as live:
        before = settled(live)
        said = pydump("-v", "dump", "--qemu-access", access, live.source, ours).stderr
        assert f"memory by way of shared{' and process' if access == 'auto' else ''}, " in said
        if access == "auto":
            assert allocated(live) - before <= PIPE
        with api.open(ours) as dump:
            assert in_step(swept(dump.read))
        live.qmp.command("stop")
        pydump("dump", "--format", "elf", "--compat", "qemu", "--qemu-access", access, live.source, ours, "--force")
        live.qmp.command("dump-guest-memory", paging=False, protocol=f"file:{qemus}")
    assert ours.read_bytes() == qemus.read_bytes()


def test_a_private_dimm_beside_shared_memory(tmp_path: Path, pydump: Pydump) -> None:
    dimm = ("-m", f"{MEMORY}M,slots=1,maxmem=2G", "-object", "memory-backend-ram,id=d,size=128M")
    arguments = (*backend("memfd"), *dimm, "-device", "pc-dimm,memdev=d")
    with live_guest(tmp_path, memory=MEMORY, arguments=arguments) as live:
        assert live.is_running()
        for access in ("auto", "shared"):
            pydump("dump", "--qemu-access", access, live.source, tmp_path / "vmcore", "--force")
            with api.open(tmp_path / "vmcore") as dump:
                assert in_step(swept(dump.read))
                assert dump.stated.memory.size > (MEMORY + 128 - 1) << 20
        said = pydump(
            "-v", "dump", "--pause", "none", "--qemu-access", "shared", live.source, tmp_path / "no", expect=1
        )
        assert "pauses the guest to send 128 MiB" in said.stderr
        assert live.is_running()


def test_a_guest_larger_than_its_host(tmp_path: Path, pydump: Pydump) -> None:
    pages = int(next(x for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("MemTotal")).split()[1])
    memory = (pages >> 10) + 1024
    with live_guest(tmp_path, memory=memory, arguments=backend("memfd", memory=memory)) as live:
        before = settled(live)
        said = pydump("-v", "dump", "--format", "kdump", live.source, tmp_path / "vmcore").stderr
        assert "MiB are copied" in said
        assert allocated(live) - before <= PIPE
        with api.open(tmp_path / "vmcore") as dump:
            assert in_step(swept(dump.read))


def test_where_there_is_no_room_to_map_a_copy_full_is_taken(tmp_path: Path) -> None:
    memory = 8192
    with live_guest(tmp_path, memory=memory, arguments=backend("memfd", memory=memory)) as live:
        assert live.is_running()
        command = ["prlimit", f"--as={6 << 30}", sys.executable, "-m", "pydump", "dump", "--json", "--workers", "1"]
        done = subprocess.run(
            [*command, live.source, str(tmp_path / "vmcore")], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["consistent"]
        assert ["no room for a copy" in line for line in report["warnings"]] == [True]
        assert live.is_running()


def test_a_snapshot_that_would_allocate_shared_memory_is_a_copy(tmp_path: Path, pydump: Pydump) -> None:
    with live_guest(tmp_path, memory=MEMORY, arguments=backend("memfd")) as live:
        before = settled(live)
        said = pydump("dump", "--pause", "snapshot", live.source, tmp_path / "vmcore").stderr
        assert "are copied instead" in said
        assert allocated(live) - before <= PIPE
        with api.open(tmp_path / "vmcore") as dump:
            assert in_step(swept(dump.read))
        assert live.is_running()


def test_what_a_snapshot_or_a_stream_allocates_is_said(tmp_path: Path, pydump: Pydump) -> None:
    require_snapshots()
    contents = tmp_path / "contents"
    contents.write_bytes(random.Random(1).randbytes(40 << 20))
    load = ("-device", f"loader,file={contents},addr=0x400000,force-raw=on")
    with live_guest(tmp_path, memory=64, arguments=(*backend("memfd", memory=64), *load)) as live:
        settled(live)
        before = allocated(live, "RssShmem")
        said = pydump("dump", "--pause", "snapshot", live.source, tmp_path / "vmcore").stderr
        stated = int(said.split("allocate ")[1].split(" MiB")[0])
        assert (allocated(live, "RssShmem") - before) >> 20 in range(stated, stated + 2)
        said = pydump("dump", "--pause", "snapshot", live.source, tmp_path / "again").stderr
        assert "allocate" not in said
        said = pydump("dump", "--qemu-access", "stream", live.source, tmp_path / "stream").stderr
        assert "up to 64 MiB" in said
        assert live.is_running()


def test_a_snapshot_leaves_no_pages_to_copy(tmp_path: Path, pydump: Pydump) -> None:
    """QEMU has read all of its private memory, and the kernel has mapped its zeros; they take no room."""
    require_snapshots()
    with live_guest(tmp_path, memory=MEMORY, arguments=backend("private")) as live:
        assert live.is_running()
        pydump("dump", "--pause", "snapshot", live.source, tmp_path / "snapshot")
        said = pydump("-v", "dump", live.source, tmp_path / "copy").stderr
    copied = next(line for line in said.splitlines() if "are copied" in line)
    assert int(copied.split(" MiB")[0].split()[-1]) < 64, copied


def test_a_guest_that_libvirt_watches_is_not_dumped_by_qemu(tmp_path: Path, pydump: Pydump) -> None:
    """libvirt's own monitor has the same name in all its guests; it stays there while libvirt is stopped."""
    require_snapshots()
    sock, output = tmp_path / "libvirt.sock", tmp_path / "vmcore"
    monitor = ("-chardev", f"socket,id=charmonitor,path={sock},server=on,wait=off", "-mon", "charmonitor,mode=control")
    with live_guest(tmp_path, arguments=monitor) as live:
        assert "libvirt" not in pydump("dump", live.source, output).stderr
        with contextlib.closing(Qmp(sock, live.process)) as libvirt:
            pydump("info", live.source)
            done = pydump("dump", "-v", live.source, output, "--force")
            assert "a snapshot by QEMU" in done.stderr
            assert "libvirt" not in done.stderr
            assert "DUMP_COMPLETED" not in libvirt.events()
            with api.open(output) as dump:
                assert [cpu.registers["eip"] for cpu in dump.cpus]
            assert "--pause snapshot" in pydump("dump", "--pause", "copy", live.source, output, "--force").stderr
            assert "DUMP_COMPLETED" in libvirt.events()
        assert live.is_running()
        assert not live.leftovers()
