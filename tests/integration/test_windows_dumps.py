"""Windows crash dumps, judged by QEMU's own, Volatility and kdmp-parser. The guest is made up: no Windows is in it."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from judges import kdmp_parser, volatility_memory
from lab.live import SUITES, qemu_of
from lab.windows import staged

import pydump as api
from windows_guest import BLOCKS, WindowsGuest

Pydump = Callable[..., subprocess.CompletedProcess[str]]
#: Bits, and whether page tables have PAE's entries.
KINDS = [(64, False), (32, False), (32, True)]
PAGE = 4096


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize(("bits", "pae"), KINDS)
def test_dump_is_qemus_byte_for_byte(
    bits: int, pae: bool, suite: str, pydump: Pydump, lab: Path, tmp_path: Path
) -> None:
    guest = WindowsGuest(bits, pae)
    as_qemu = ("--format", "win-dmp", "--compat", "qemu", "--force")
    theirs, ours = tmp_path / "theirs.dmp", tmp_path / "ours.dmp"
    sources = {tmp_path / "theirs.elf": "elf", tmp_path / "theirs.kdump": "kdump-zlib"}
    with staged(guest, guest.header(), tmp_path, qemu_of(suite, lab)) as live:
        pydump("dump", live.source, tmp_path / "live.dmp", *as_qemu)
        assert (tmp_path / "ram").read_bytes() == guest.ram, "pydump has written to the guest"
        assert live.state == "prelaunch"
        for path, format_ in ((theirs, "win-dmp"), *sources.items()):
            live.qmp.command("dump-guest-memory", paging=False, protocol=f"file:{path}", format=format_)
    assert (tmp_path / "live.dmp").read_bytes() == theirs.read_bytes()
    for source in sources:
        pydump("dump", source, ours, *as_qemu)
        assert ours.read_bytes() == theirs.read_bytes()
        pydump("dump", source, tmp_path / "again.elf", "--format", "elf", "--force")
        pydump("dump", tmp_path / "again.elf", ours, *as_qemu)
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.fixture(params=KINDS, ids=["64", "32", "32-pae"])
def windows(request: pytest.FixtureRequest) -> WindowsGuest:
    """A made-up guest."""
    return WindowsGuest(*request.param)


@pytest.mark.parametrize("form", ["full", "bitmap"])
def test_other_readers_find_all_pages_and_registers(
    windows: WindowsGuest, form: str, pydump: Pydump, tmp_path: Path
) -> None:
    source, theirs, out = tmp_path / "theirs.elf", tmp_path / "theirs.dmp", tmp_path / "ours.dmp"
    with staged(windows, windows.header(), tmp_path) as live:
        for path, format_ in ((theirs, "win-dmp"), (source, "elf")):
            live.qmp.command("dump-guest-memory", paging=False, protocol=f"file:{path}", format=format_)
    # Without QEMU's flash below 4 GiB; for a bitmap dump the end of the file is cut off.
    end = sum(BLOCKS[-1])
    pydump("dump", source, tmp_path / "ram.elf", "--format", "elf", "--length", str(end))
    whole = (tmp_path / "ram.elf").read_bytes()
    lost = 8 * PAGE if form == "bitmap" else 0
    (tmp_path / "ram.elf").write_bytes(whole[: len(whole) - lost])
    pydump("dump", tmp_path / "ram.elf", out, "--format", "windmp", expect=3 if lost else 0)

    with api.open(source) as dump:
        memory = bytearray(dump.read(0, end))
        registers = dump.cpus[0].registers
    at = len(windows.header())
    for start, size in BLOCKS:  # with the contexts that QEMU wrote
        memory[start : start + size] = theirs.read_bytes()[at : at + size]
        at += size
    digest = hashlib.sha256(memory[: end - lost]).hexdigest()
    layer, digests, highest = volatility_memory(out, [(0, end - lost)])
    assert (layer, digests, highest) == (f"WindowsCrashDump{windows.bits}Layer", [digest], end - lost - 1)
    if windows.bits == 64:
        found = kdmp_parser(out)
        names = {"eflags": "rflags"} | {f"seg{name}": name for name in ("cs", "ss", "ds", "es", "fs", "gs")}
        for name, value in found.pop("registers").items():
            assert value == registers[names.get(name, name)], name
        assert found.pop("type") == (5 if lost else 1)
        assert found == {"tables": windows.root, "runs": [[0, end - lost]], "sha256": digest}
