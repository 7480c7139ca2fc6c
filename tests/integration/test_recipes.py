"""Recipes of the how-to guides: their commands, on QEMU as the programs start it that they are for."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from judges import require
from lab.boot import Qmp
from lab.live import SWEEP, live_guest

import pydump as api

HOW_TO = Path(__file__).parents[2] / "docs/how-to"
Pydump = Callable[..., Any]


def command(page: str, name: str, prefix: str = "") -> list[str]:
    """The words of the one command of a page that names this, without "pydump" if that is the first."""
    lines = re.findall(rf"^[#$] ({prefix}pydump .*)$", (HOW_TO / page).read_text(), re.MULTILINE)
    (line,) = (line for line in lines if name in line)
    return shlex.split(line.removeprefix("pydump "), comments=True)


@contextlib.contextmanager
def qmeventd(path: Path) -> Iterator[list[str]]:
    """A stand-in for Proxmox's daemon, which QEMU connects to and says its events to; gives their names."""
    heard: list[str] = []

    def serve() -> None:
        with contextlib.suppress(OSError), server.accept()[0] as connection:
            connection.sendall(b'{"execute": "qmp_capabilities"}\n')
            with connection.makefile("r") as lines:
                heard.extend(json.loads(line).get("event", "") for line in lines)

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield heard
        thread.join(60)


@contextlib.contextmanager
def proxmox(directory: Path) -> Iterator[Path]:
    """A guest with the options that Proxmox VE starts it with; gives its monitor.

    Source: config_to_command in PVE/QemuServer.pm of qemu-server. ``-id`` is an option of Proxmox's own QEMU.
    """
    qemu = shutil.which("qemu-system-x86_64")
    require(qemu, "qemu-system-x86_64", "apt install qemu-system-x86")
    monitor, pid, firmware = (directory / name for name in ("100.qmp", "100.pid", "firmware"))
    firmware.write_bytes(SWEEP.rjust(0x10000, b"\0"))
    start = f"""{qemu} -name vm,debug-threads=on -no-shutdown
        -chardev socket,id=qmp,path={monitor},server=on,wait=off -mon chardev=qmp,mode=control
        -chardev socket,id=qmp-event,path={directory}/qmeventd.sock,reconnect=5 -mon chardev=qmp-event,mode=control
        -pidfile {pid} -daemonize -smp 1,sockets=1,cores=1,maxcpus=1 -nodefaults -vga none -display none
        -machine type=pc -accel tcg -m 64 -bios {firmware}"""
    subprocess.run(start.split(), check=True, timeout=60)
    try:
        yield monitor
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)


def status(monitor: Path) -> str:
    """What Proxmox's own commands ask, which connect for one command each."""
    with contextlib.closing(Qmp(monitor)) as qmp:
        return str(qmp.command("query-status")["status"])


@pytest.mark.parametrize("way", ["auto", "snapshot", "full"])
def test_a_guest_of_proxmox(tmp_path: Path, pydump: Pydump, way: str) -> None:
    words = command("libvirt-guests.md", "/run/qemu-server/100.qmp")
    assert words == ["dump", "qmp:/run/qemu-server/100.qmp", "vmcore"]
    with qmeventd(tmp_path / "qmeventd.sock") as heard:
        with proxmox(tmp_path) as monitor:
            assert status(monitor) == "running"
            pydump(words[0], f"qmp:{monitor}", tmp_path / words[2], "--pause", way)
            assert status(monitor) == "running"
        assert api.verify(tmp_path / "vmcore").ok
    assert heard.count("STOP") == heard.count("RESUME") > 0  # Proxmox's daemon was told of each


def test_a_sandbox_of_kata(tmp_path: Path, pydump: Pydump) -> None:
    """The runtime holds the first monitor, and memory is shared with virtiofsd. Source: appendQMPSockets and
    appendMemoryKnobs in src/runtime/pkg/govmm/qemu/qemu.go of kata-containers."""
    words = command("libvirt-guests.md", "extra-monitor.sock")
    extra = tmp_path / "extra-monitor.sock"
    assert words == ["dump", "qmp:/run/vc/vm/SANDBOX/extra-monitor.sock", "vmcore"]
    memory = "memory-backend-file,id=dimm1,size=64M,mem-path=/dev/shm,share=on"
    arguments = (
        *("-qmp", f"unix:path={extra},server=on,wait=off"),
        *("-object", memory, "-numa", "node,memdev=dimm1"),
        *("-sandbox", "on,obsolete=deny,spawn=deny,resourcecontrol=deny"),
    )
    with live_guest(tmp_path, arguments=arguments) as live, contextlib.closing(Qmp(live.socket, live.process)):
        said = pydump("dump", live.source, tmp_path / "no", "--connect-timeout", "1", expect=1).stderr
        assert "another client has this monitor" in said
        pydump(words[0], f"qmp:{extra}", tmp_path / words[2])
        assert live.is_running() and not live.leftovers()
    assert api.verify(tmp_path / "vmcore").ok


#: A machine as KubeVirt names it: its namespace and its name.
MACHINE = """<domain type='qemu'><name>NAMESPACE_vm</name><memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><emulator>{qemu}</emulator><controller type='usb' model='none'/><memballoon model='none'/></devices>
</domain>"""


@contextlib.contextmanager
def launcher(directory: Path) -> Iterator[int]:
    """A container as KubeVirt's; gives the process that is number 1 in it."""
    for program in ("libvirtd", "virsh", "unshare", "nsenter"):
        require(shutil.which(program), program, "apt install libvirt-daemon libvirt-clients util-linux")
    require(os.geteuid() == 0, "root", "run as root: it takes namespaces")
    pytest.importorskip("libvirt_qemu", reason="libvirt-python is not installed")
    qemu = shutil.which("qemu-system-x86_64")
    require(qemu, "qemu-system-x86_64", "apt install qemu-system-x86")
    directory.mkdir()
    directory.with_suffix(".xml").write_text(MACHINE.format(qemu=qemu))
    script = Path(__file__).parent / "lab/launcher.sh"
    start = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", script, directory]
    with subprocess.Popen(start, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "ready" in process.stdout.readline()
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            yield int(children.read_text().split()[0])
        finally:
            process.kill()


def test_a_machine_of_kubevirt() -> None:
    """pydump is in a container of its own, with the process namespace of the launcher's."""
    variable, _, *words = command("libvirt-guests.md", "NAMESPACE_vm", prefix="TMPDIR=.*")
    with tempfile.TemporaryDirectory(prefix="pydump-launcher-") as name:  # open to nobody, as pytest's own are not
        os.chmod(name, 0o755)
        directory, output = Path(name) / "compute", Path(name) / "vmcore"
        with launcher(directory) as first:
            inside = [word.replace("$compute", f"/proc/1/root{directory}") for word in (variable, *words)]
            inside[inside.index("vmcore")] = str(output)
            enter = ["nsenter", "--pid", "--target", f"{first}", "unshare", "--mount", "--mount-proc", "env"]
            for more in ((), ("--libvirt-pause", "full", "--force")):
                run = [*enter, inside[0], sys.executable, "-m", "pydump", *inside[1:], *more]
                done = subprocess.run(run, capture_output=True, text=True, timeout=60)
                assert done.returncode == 0, done.stderr
                assert api.verify(output, workers=1).ok
            uri = inside[2].removeprefix("libvirt:").removesuffix(":NAMESPACE_vm")
            ask = [*enter[:-1], "virsh", "-c", uri, "domstate", "NAMESPACE_vm"]
            assert subprocess.run(ask, capture_output=True, text=True, timeout=60).stdout.strip() == "running"


def test_the_unit_of_systemd_is_in_order(tmp_path: Path) -> None:
    require(shutil.which("systemd-analyze"), "systemd-analyze", "apt install systemd")
    (text,) = re.findall(
        r"^```ini\n(\[Unit\].*?)^```$", (HOW_TO / "crash-hook.md").read_text(), re.MULTILINE | re.DOTALL
    )
    program = Path(sys.executable).with_name("pydump")
    assert "ExecStart=/usr/bin/pydump watch " in text
    unit = tmp_path / "pydump-watch@vm.service"
    unit.write_text(text.replace("/usr/bin/pydump", str(program)))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    (start,) = re.findall("^ExecStart=/usr/bin/pydump (.*)$", text, re.MULTILINE)
    unanswered = start.replace("%i", "none").replace("/var/crash", str(tmp_path)).replace("--wait 3600", "--wait 0")
    done = subprocess.run([program, *unanswered.split()], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "/run/none.sock" in done.stderr  # its options are pydump's; there is no guest
