"""What a real libvirtd of a session saves and dumps, in each compression: equal to its own dump of the same domain."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from judges import require

import pydump as api

#: Programs that libvirt runs for each compression; ``raw`` needs none.
FORMATS = {"raw": "", "gzip": "gzip", "bzip2": "bzip2", "xz": "xz", "zstd": "zstd", "lzop": "lzop"}
NOBODY = 65534
DOMAIN = """<domain type='qemu'><name>guest</name><memory unit='MiB'>64</memory><vcpu>2</vcpu>
  <maxMemory slots='2' unit='MiB'>1024</maxMemory>
  <cpu><numa><cell id='0' cpus='0' memory='32' unit='MiB'/><cell id='1' cpus='1' memory='32' unit='MiB'/></numa></cpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
  <devices><emulator>{qemu}</emulator><controller type='usb' model='none'/><memballoon model='none'/>
    <memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target></memory></devices></domain>"""


class Virsh:
    """virsh, and the libvirtd that it talks to, below a directory."""

    def __init__(self, directory: Path, prefix: tuple[str, ...], environment: dict[str, str]) -> None:
        self._directory, self._prefix, self._environment = directory, prefix, environment
        self.socket = Path(environment["XDG_RUNTIME_DIR"]) / "libvirt/libvirt-sock"
        self.start()

    def start(self) -> None:
        """Start libvirtd."""
        with (self._directory / "log").open("ab") as log:
            self.daemon = subprocess.Popen([*self._prefix, "libvirtd"], env=self._environment, stdout=log, stderr=log)

    def restart(self) -> None:
        """Kill libvirtd and start it again, as one that crashes."""
        self.daemon.kill()
        self.daemon.wait()
        self.start()
        deadline = time.monotonic() + 60
        while True:
            try:
                self("list")
                return
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)

    def __call__(self, *arguments: object) -> str:
        """What a command of virsh prints."""
        command = [*self._prefix, "virsh", "-q", "-c", "qemu:///session", *map(str, arguments)]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextlib.contextmanager
def libvirt(directory: Path, image_format: str) -> Iterator[Virsh]:
    """A libvirtd of a session of nobody's, for root's is the system's; and virsh that talks to it."""
    config = directory / "config/libvirt"
    config.mkdir(parents=True)
    (config / "qemu.conf").write_text(f'save_image_format = "{image_format}"\ndump_image_format = "{image_format}"\n')
    variables = {name: str(directory / name) for name in ("run", "config", "cache", "data")}
    environment = {
        **os.environ, "HOME": str(directory), "XDG_RUNTIME_DIR": variables["run"],
        "XDG_CONFIG_HOME": variables["config"], "XDG_CACHE_HOME": variables["cache"],
        "XDG_DATA_HOME": variables["data"],
    }  # fmt: skip
    as_nobody: tuple[str, ...] = ()
    if os.geteuid() == 0:
        as_nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--pdeathsig=TERM")
        for path in (directory, *directory.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    subprocess.run([*as_nobody, "mkdir", "-m", "700", variables["run"]], check=True)
    virsh = Virsh(directory, as_nobody, environment)
    try:
        deadline = time.monotonic() + 20
        while not virsh.socket.exists() and virsh.daemon.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        require(virsh.socket.exists(), "a libvirtd of a session", (directory / "log").read_text()[-300:])
        yield virsh
    finally:
        with contextlib.suppress(AssertionError):  # it is saved, and so it is gone
            virsh("destroy", "guest")
        virsh.daemon.terminate()
        virsh.daemon.wait(20)


@pytest.mark.parametrize("image_format", FORMATS)
def test_save_and_dump_equal_the_memory_only_dump(image_format: str) -> None:
    for program in ("libvirtd", "virsh"):
        require(shutil.which(program), program, "apt install libvirt-daemon libvirt-clients libvirt-daemon-driver-qemu")
    qemu = shutil.which("qemu-system-x86_64")
    require(qemu, "qemu-system-x86_64", "apt install qemu-system-x86")
    compressor = FORMATS[image_format]
    require(not compressor or shutil.which(compressor), compressor, f"apt install {compressor}")
    with tempfile.TemporaryDirectory(prefix="pydump-libvirt-") as name:  # pytest's own are not open to nobody
        directory = Path(name)
        truth, dumped, later, saved = (directory / name for name in ("truth", "dumped", "later", "saved"))
        (directory / "guest.xml").write_text(DOMAIN.format(qemu=qemu))
        with libvirt(directory, image_format) as virsh:
            virsh("create", directory / "guest.xml", "--paused")
            virsh("dump", "--memory-only", "guest", truth)
            virsh("dump", "guest", dumped)
            virsh("resume", "guest")  # QEMU migrates a guest once while it is paused
            virsh("suspend", "guest")
            virsh("dump", "--memory-only", "guest", later)
            try:
                virsh("save", "guest", saved)
            except AssertionError as error:
                if "Invalid save image format" not in str(error):
                    raise
                pytest.skip(f"this libvirt does not know {image_format}: libvirt 9.6 and later know zstd")
        if image_format == "lzop":
            with pytest.raises(api.PydumpError, match="lzop"):
                api.open(saved)
            return
        # libvirt's XML says where the memory device is; a bare stream does not, and there is one.
        for path, same, warned in ((dumped, truth, True), (saved, later, False)):
            with api.open(path) as ours, api.open(same) as theirs:
                assert ours.guest.memory.ranges() == theirs.guest.memory.ranges()
                assert ours.guest.notes == theirs.guest.notes
                assert not ours.image.unreadable()
                assert bool(ours.image.warnings()) == warned
            assert api.compare(path, same, workers=2).same
