"""Domains of a real libvirtd: a capture equals libvirt's own dump, and the domain is as it was, killed or not."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from judges import require
from lab.live import IDLE, PANICKING
from test_libvirt_saves import DOMAIN, Virsh, libvirt
from test_watch import told, watching

import pydump as api

MISSING = "libvirt-python is not installed: apt install libvirt-dev pkg-config gcc python3-dev, then scripts/setup"
#: The BIOS counts time here while it waits for a disk. Source: the BIOS data area, timer ticks since midnight.
TICKS = range(0x46C, 0x470)
RAM = 64 << 20
#: Below are the BIOS's stack and data, which it writes to; and its ROM is above.
QUIET = (1 << 20, RAM - (1 << 20))


@dataclass
class Running:
    """A domain that sits in its BIOS.

    Attributes:
        virsh: Runs virsh.
        uri: libvirt's URI.
        directory: What belongs to it lies here.
    """

    virsh: Virsh
    uri: str
    directory: Path

    @property
    def source(self) -> str:
        """What pydump calls it."""
        return f"libvirt:{self.uri}:guest"

    def qmp(self, command: str, **arguments: Any) -> Any:
        """What QEMU answers."""
        asked = json.dumps({"execute": command, "arguments": arguments})
        return json.loads(self.virsh("qemu-monitor-command", "guest", asked))["return"]

    def state(self) -> tuple[Any, ...]:
        """What a capture must leave as it was."""
        return (
            self.virsh("domstate", "guest"),
            self.qmp("query-status")["status"],
            [one["capability"] for one in self.qmp("query-migrate-capabilities") if one["state"]],
            self.qmp("query-migrate-parameters")["max-bandwidth"],
            sorted(one["name"] for one in self.qmp("qom-list", path="/objects")),
        )

    def recorders(self) -> list[int]:
        """Processes that capture this domain."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_text()
            except OSError:
                continue
            if "recorder.py" in line and self.uri in line:
                found.append(int(path.parent.name))
        return found


def wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def domain() -> Iterator[Running]:
    pytest.importorskip("libvirt_qemu", reason=MISSING)
    for program in ("libvirtd", "virsh", "setcap"):
        require(shutil.which(program), program, "apt install libvirt-daemon libvirt-clients libcap2-bin")
    qemu = shutil.which("qemu-system-x86_64")
    require(qemu, "qemu-system-x86_64", "apt install qemu-system-x86")
    with tempfile.TemporaryDirectory(prefix="pydump-libvirt-") as name:
        directory = Path(name)
        ours = directory / "qemu/bin/qemu-system-x86_64"  # it finds its modules and firmware beside itself
        ours.parent.mkdir(parents=True)
        shutil.copy(qemu or "", ours)
        for beside in ("share", "lib"):
            (directory / "qemu" / beside).symlink_to(f"/usr/{beside}")
        (directory / "guest.xml").write_text(DOMAIN.format(qemu=ours))
        with libvirt(directory, "raw") as virsh:
            able = subprocess.run(["setcap", "cap_sys_ptrace+ep", ours], capture_output=True)  # for userfaultfd
            require(able.returncode == 0, "a QEMU that may use userfaultfd", "run as root")
            virsh("create", directory / "guest.xml")
            running = Running(virsh, f"qemu:///session?socket={directory}/run/libvirt/libvirt-sock", directory)
            wait_for(lambda: running.qmp("query-status")["status"] == "running")
            time.sleep(3)  # until the BIOS has found no disk
            yield running


def assert_same(path: Path, truth: Path) -> None:
    """Both hold the same memory, but the time."""
    with api.open(path) as ours, api.open(truth) as theirs:
        assert ours.guest.memory.ranges() == theirs.guest.memory.ranges()
        assert [note.type for note in ours.notes] == [note.type for note in theirs.notes]
        first = [bytes(dump.read(0, 0x1000)) for dump in (ours, theirs)]
        assert {i for i in range(0x1000) if first[0][i] != first[1][i]} <= set(TICKS)
        assert ours.read(QUIET[0], QUIET[1] - QUIET[0]) == theirs.read(QUIET[0], QUIET[1] - QUIET[0])


@pytest.mark.parametrize(
    ("given", "way"),
    [({}, "snapshot"), ({"pause": "copy"}, "copy"), ({"pause": "full"}, "full"), ({"pause": "none"}, "none")],
)
def test_a_capture_of_a_running_domain_equals_libvirts_dump(
    domain: Running, tmp_path: Path, given: dict[str, str], way: str
) -> None:
    before = domain.state()
    report = api.dump(domain.source, tmp_path / "ours", options={"libvirt": given})
    assert domain.state() == before
    assert not domain.recorders()
    assert report.paused_seconds is not None and not report.warnings
    assert report.consistent == (way != "none")
    truth = domain.directory / f"truth-{way}"
    domain.virsh("dump", "--memory-only", "guest", truth)
    assert_same(tmp_path / "ours", truth)


def test_a_domain_that_cannot_give_a_snapshot_is_paused(domain: Running, tmp_path: Path) -> None:
    """QEMU refuses a snapshot together with this capability. Source: migrate_caps_check in migration."""
    switch = {"capability": "compress", "state": True}
    domain.qmp("migrate-set-capabilities", capabilities=[switch])
    try:
        before = domain.state()
        report = api.dump(domain.source, tmp_path / "ours")
        assert [line for line in report.warnings if "the domain is paused while its memory is copied: QEMU" in line]
        with pytest.raises(api.PydumpError, match="cannot take a snapshot of this domain.*--libvirt-pause copy"):
            api.dump(domain.source, tmp_path / "no", options={"libvirt": {"pause": "snapshot"}})
        assert domain.state() == before
        assert not (tmp_path / "no").exists()
    finally:
        domain.qmp("migrate-set-capabilities", capabilities=[{**switch, "state": False}])


def test_a_domain_that_libvirt_works_on_is_refused(domain: Running, tmp_path: Path) -> None:
    pipe = domain.directory / "pipe"
    os.mkfifo(pipe)
    os.chmod(pipe, 0o666)
    dumping = threading.Thread(target=domain.virsh, args=("dump", "--memory-only", "guest", pipe))
    dumping.start()
    with pipe.open("rb") as reader:
        reader.read(4096)
        with pytest.raises(api.PydumpError, match="^libvirt is dumping the domain guest; wait until that has ended"):
            api.dump(domain.source, tmp_path / "no")
        while reader.read(1 << 20):
            pass
    dumping.join()
    assert domain.virsh("domstate", "guest") == "running\n"


def test_a_domain_that_libvirt_saves_is_refused(domain: Running, tmp_path: Path) -> None:
    pipe = domain.directory / "save"
    os.mkfifo(pipe)
    os.chmod(pipe, 0o666)

    def save() -> None:
        with pytest.raises(AssertionError, match="Failed to save domain"):
            domain.virsh("save", "guest", pipe)

    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0):
        saving = threading.Thread(target=save)
        saving.start()
        wait_for(lambda: "Operation:        Save" in domain.virsh("domjobinfo", "guest"))
        for way in ("auto", "full", "none"):
            with pytest.raises(api.PydumpError, match="^libvirt is saving the domain guest; wait until that has ended"):
                api.dump(domain.source, tmp_path / "no", options={"libvirt": {"pause": way}})
        domain.virsh("domjobabort", "guest")
    saving.join()
    assert domain.virsh("domstate", "guest") == "running\n"


def test_two_captures_at_once_are_refused(domain: Running, tmp_path: Path) -> None:
    domain.qmp("object-add", **{"qom-type": "authz-simple", "id": "pydump", "identity": "another 1:1"})
    try:
        for way in ("snapshot", "copy"):
            with pytest.raises(api.PydumpError, match="another pydump captures the domain guest.*object-del"):
                api.dump(domain.source, tmp_path / "no", options={"libvirt": {"pause": way}})
    finally:
        domain.qmp("object-del", id="pydump")


@pytest.mark.parametrize(
    ("way", "victim"),
    [("snapshot", "parent"), ("snapshot", "recorder"), ("copy", "parent"), ("copy", "both"), ("none", "both")],
)
def test_the_domain_is_as_it_was_after_a_kill(domain: Running, tmp_path: Path, way: str, victim: str) -> None:
    """A snapshot needs one of both: without a reader QEMU 7.2 keeps its pages write-protected, and the guest hangs."""
    before, chance = domain.state(), random.Random(way + victim)
    command = [sys.executable, "-m", "pydump", "dump", domain.source, tmp_path / "killed", "--libvirt-pause", way]
    variables = {**os.environ, "TMPDIR": str(domain.directory)}  # where both are killed, a pipe's name stays there
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=variables) as process:
        wait_for(lambda: domain.recorders() or process.poll() is not None)
        time.sleep(chance.uniform(0.1, 0.8))
        for pid in domain.recorders() if victim != "parent" else []:
            os.kill(pid, signal.SIGKILL)
        if victim != "recorder":
            process.kill()
    wait_for(lambda: not domain.recorders())
    wait_for(lambda: domain.virsh("domstate", "guest") == "running\n")
    assert domain.state() == before


@contextlib.contextmanager
def held(domain: Running) -> Iterator[subprocess.Popen[bytes]]:
    """pydump with a domain that it has paused, and whose memory it reads as slowly as its output is read."""
    command = [sys.executable, "-m", "pydump", "dump", domain.source, "-", "--format", "elf", "--libvirt-pause", "full"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.read(1 << 17)
            assert domain.virsh("domstate", "--reason", "guest") == "paused (user)\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("victim", ["parent", "recorder"])
def test_a_domain_that_is_held_runs_after_a_kill(domain: Running, victim: str) -> None:
    before = domain.state()
    with held(domain) as process:
        (recorder,) = domain.recorders()
        if victim == "parent":
            process.kill()
        else:
            os.kill(recorder, signal.SIGKILL)
            assert domain.virsh("domstate", "guest") == "paused\n"
            process.communicate(timeout=60)
            assert process.returncode == 1  # whether somebody let it run meanwhile is not known
    wait_for(lambda: not domain.recorders())
    assert domain.state() == before


def test_a_domain_that_is_held_runs_after_libvirtd_has_crashed(domain: Running) -> None:
    before = domain.state()
    with held(domain) as process:
        domain.virsh.restart()
        assert domain.virsh("domstate", "guest") == "paused\n"
        _, said = process.communicate(timeout=90)
    assert process.returncode == 0
    assert b"libvirtd ended meanwhile: whether somebody let the domain run is not known" in said
    assert domain.state() == before
    with held(domain) as process:
        domain.virsh.daemon.kill()
        process.kill()
        domain.virsh.restart()
    wait_for(lambda: not domain.recorders())
    assert domain.state() == before


def test_a_domain_that_somebody_lets_run_is_not_consistent(domain: Running) -> None:
    before = domain.state()
    with held(domain) as process:
        domain.virsh("resume", "guest")
        _, said = process.communicate(timeout=60)
    assert b"somebody let the domain run meanwhile" in said
    assert domain.state() == before


def test_a_held_domain_is_locked_and_runs_after_ctrl_c(domain: Running, tmp_path: Path) -> None:
    before = domain.state()
    with held(domain) as process:
        process.send_signal(signal.SIGTSTP)  # nothing: the domain would wait
        with pytest.raises(api.PydumpError, match="another pydump captures the domain guest"):
            api.dump(domain.source, tmp_path / "no")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert domain.state() == before


def test_a_domain_whose_memory_cannot_be_read_here_is_not_paused(
    domain: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pydump_qemu_stream.process import Process

    def refused(process: Process, name: str) -> int:
        raise process._denied(name, PermissionError(1, "Operation not permitted"))

    monkeypatch.setattr(Process, "open", refused)
    before = domain.virsh("domstate", "--reason", "guest")
    for way in ("full", "none"):
        with pytest.raises(api.PydumpError, match="run pydump as root.*take --libvirt-pause snapshot or copy$"):
            api.dump(domain.source, tmp_path / "no", options={"libvirt": {"pause": way}})
    assert domain.virsh("domstate", "--reason", "guest") == before


def test_shared_memory_is_read_from_its_file_and_libvirt_reads_the_rest(
    domain: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user who may open files of QEMU, and not its memory (kernel.yama.ptrace_scope)."""
    from pydump_qemu_stream.process import Process

    opened = Process.open

    def refused(process: Process, name: str) -> int:
        if name == "mem":
            raise process._denied(name, PermissionError(1, "Operation not permitted"))
        return opened(process, name)

    monkeypatch.setattr(Process, "open", refused)
    xml = DOMAIN.format(qemu=domain.directory / "qemu/bin/qemu-system-x86_64").replace("guest", "shared")
    backing = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking><vcpu>"
    (domain.directory / "shared.xml").write_text(xml.replace("<vcpu>", backing))
    domain.virsh("create", domain.directory / "shared.xml", "--paused")
    try:
        source, truth = domain.source.replace(":guest", ":shared"), domain.directory / "truth-shared"
        api.dump(source, tmp_path / "ours", format="elf", options={"libvirt": {"pause": "full"}})
        domain.virsh("dump", "--memory-only", "shared", truth)
        with api.open(tmp_path / "ours") as ours, api.open(truth) as theirs:
            assert ours.notes == theirs.notes
            assert any(ours.read(0xFFFC0000, 1 << 18))  # firmware, in no file
        assert api.compare(tmp_path / "ours", truth).same
    finally:
        domain.virsh("destroy", "shared")


@pytest.mark.parametrize("way", ["full", "none"])
def test_a_storm_of_kills_leaves_the_domain_as_it_was(domain: Running, tmp_path: Path, way: str) -> None:
    before, chance = domain.state(), random.Random(way)
    for i in range(int(os.environ.get("PYDUMP_KILLS", "3"))):
        command = [sys.executable, "-m", "pydump", "dump", domain.source, tmp_path / f"{i}", "--libvirt-pause", way]
        variables = {**os.environ, "TMPDIR": str(domain.directory)}
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=variables) as process:
            wait_for(lambda process=process: domain.recorders() or process.poll() is not None)
            time.sleep(chance.uniform(0, 1))
            process.kill()
        wait_for(lambda: not domain.recorders())
        assert domain.state() == before


@pytest.mark.parametrize("way", ["full", "none"])
def test_a_domain_that_a_killed_capture_has_paused_is_let_run_by_the_next(
    domain: Running, tmp_path: Path, way: str
) -> None:
    before = domain.state()
    domain.qmp("object-add", **{"qom-type": "authz-simple", "id": "pydump", "identity": f"{killed()} paused"})
    domain.virsh("suspend", "guest")
    api.dump(domain.source, tmp_path / "next", options={"libvirt": {"pause": way}})
    assert domain.state() == before


def killed() -> str:
    """The mark of a pydump both of whose processes are gone."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino} 4194305:1 4194306:1"


@pytest.mark.parametrize("way", ["snapshot", "copy"])
def test_what_a_killed_capture_has_set_is_set_back_by_the_next(domain: Running, tmp_path: Path, way: str) -> None:
    """Its mark says what the limit was; both of its processes are gone."""
    before = domain.state()
    mark = f"{killed()} max-bandwidth={before[3]}"
    domain.qmp("object-add", **{"qom-type": "authz-simple", "id": "pydump", "identity": mark})
    domain.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
    domain.qmp("migrate-set-capabilities", capabilities=[{"capability": "background-snapshot", "state": True}])
    api.dump(domain.source, tmp_path / "next", options={"libvirt": {"pause": way}})
    assert domain.state() == before


@contextlib.contextmanager
def small(domain: Running, name: str, program: bytes) -> Iterator[str]:
    """A domain of 64 MiB that runs a program instead of firmware, and is paused before that; gives its source."""
    (firmware := domain.directory / f"{name}.rom").write_bytes(program)
    xml = re.sub("<memory model.*?</memory>", "", DOMAIN.replace("guest", name), flags=re.DOTALL)
    xml = xml.replace("</os>", f"<loader type='rom'>{firmware}</loader></os><on_crash>preserve</on_crash>")
    xml = xml.replace("<devices>", "<devices><panic model='isa'/>")
    (file := domain.directory / f"{name}.xml").write_text(
        xml.format(qemu=domain.directory / "qemu/bin/qemu-system-x86_64")
    )
    domain.virsh("create", file, "--paused")
    try:
        yield domain.source.removesuffix("guest") + name
    finally:
        with contextlib.suppress(AssertionError):
            domain.virsh("destroy", name)


def assert_captured(domain: Running, name: str, directory: Path) -> None:
    """Each way gives what libvirt's own dump gives, of a domain that does not run, and it stays as it is."""
    source = domain.source.removesuffix("guest") + name
    before = domain.virsh("domstate", "--reason", name)
    truth = domain.directory / f"truth-{name}-{before.partition(' ')[0]}"
    domain.virsh("dump", "--memory-only", name, truth)
    for way in ("auto", "full", "none"):
        output = directory / f"{before.partition(' ')[0]}-{way}"
        report = api.dump(source, output, format="elf", options={"libvirt": {"pause": way}})
        assert domain.virsh("domstate", "--reason", name) == before, way
        assert report.paused_seconds == 0 and report.consistent and not report.warnings
        with api.open(output) as ours, api.open(truth) as theirs:
            assert ours.notes == theirs.notes
            assert ours.guest.memory.ranges() == theirs.guest.memory.ranges()
        assert api.compare(output, truth, workers=1).same
    with pytest.raises(api.PydumpError, match="does not run.*leave --libvirt-pause out") as caught:
        api.dump(source, directory / "no", options={"libvirt": {"pause": "snapshot"}})
    assert caught.value.exit_code == 2
    assert domain.virsh("domstate", "--reason", name) == before


def test_a_domain_that_is_paused_or_sleeps_is_captured_and_stays_so(domain: Running, tmp_path: Path) -> None:
    """It sleeps by a write to its power management. Source: hw/isa/lpc_ich9.c and hw/acpi/core.c of QEMU."""
    with small(domain, "idle", IDLE["x86_64"]):
        domain.virsh("resume", "idle")
        domain.virsh("suspend", "idle")
        assert domain.virsh("domstate", "--reason", "idle") == "paused (user)\n"
        assert_captured(domain, "idle", tmp_path)
        domain.virsh("resume", "idle")
        sleep = ("/w 0xcf8 0x8000f840", "/w 0xcfc 0x601", "/w 0xcf8 0x8000f844", "/w 0xcfc 0x80", "/h 0x604 0x2400")
        for write in sleep:
            domain.virsh("qemu-monitor-command", "idle", "--hmp", f"o{write}")
        wait_for(lambda: domain.virsh("domstate", "idle") == "pmsuspended\n")
        assert_captured(domain, "idle", tmp_path)


def test_a_domain_that_panics_is_captured_and_stays_crashed(domain: Running, tmp_path: Path) -> None:
    with small(domain, "panics", PANICKING) as source:
        with watching(source, tmp_path / "dumps", "--go-on", "--", "--no-sync", "--workers", "1") as watch:
            told(watch, "watching libvirt:")
            domain.virsh.restart()
            domain.virsh("resume", "panics")
            told(watch, "watching libvirt:")  # again
            assert domain.virsh("domstate", "--reason", "panics") == "crashed (panicked)\n"
            (dump,) = (tmp_path / "dumps").iterdir()
            assert api.verify(dump, workers=1).ok
            assert_captured(domain, "panics", tmp_path)
            domain.virsh("destroy", "panics")
            told(watch, "the guest ended after 1 captures: ")
            assert watch.wait(60) == 0
        with watching(source, tmp_path / "dumps") as watch:
            told(watch, "error: libvirt has no domain 'panics'")
            assert watch.wait(60) == 1


def test_a_domain_that_libvirt_ends_when_it_panics_is_not_watched(domain: Running, tmp_path: Path) -> None:
    with watching(domain.source, tmp_path / "dumps") as watch:
        told(watch, "error: libvirt ends the domain guest when it panics: its on_crash is destroy; virsh edit")
        assert watch.wait(60) == 2


def test_a_domain_without_memory_is_refused(domain: Running, tmp_path: Path) -> None:
    """It comes last: nothing runs afterwards."""
    xml = domain.directory / "persistent.xml"
    xml.write_text(domain.virsh("dumpxml", "guest"))
    domain.virsh("define", xml)
    domain.virsh("managedsave", "guest")
    said = r"^the domain guest is saved; its memory is in its save image.*: ~/.config/libvirt/qemu/save/guest\.save$"
    with pytest.raises(api.PydumpError, match=said):
        api.dump(domain.source, tmp_path / "no")
    saved = domain.directory / "config/libvirt/qemu/save/guest.save"  # here XDG_CONFIG_HOME stands for ~/.config
    with api.open(saved) as image:
        assert image.read(0x100000, 16) and image.cpus
    domain.virsh("managedsave-remove", "guest")
    with pytest.raises(api.PydumpError, match="^the domain guest is shut off; start it"):
        api.dump(domain.source, tmp_path / "no")
    domain.virsh("undefine", "guest")
