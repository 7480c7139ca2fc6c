"""Memory images of other tools: Volatility returns the memory that we wrote, and reads what it reads of the samples."""

from __future__ import annotations

import hashlib
import lzma
import random
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from judges import kdumpfile_pages, volatility_memory

import pydump
from pydump.builtin.raw import BytesImage
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap

DATA = Path(__file__).parents[1] / "data/lime"
LAYERS = {"lime": "LimeLayer", "avml": "AVMLLayer"}


def spans_of(dump: pydump.Dump) -> list[tuple[int, int]]:
    """Memory in pieces of a megabyte."""
    return [
        (at, min(at + (1 << 20), end))
        for start, end in dump.stated.memory.ranges()
        for at in range(start, end, 1 << 20)
    ]


def agrees(path: Path, truth: pydump.Dump, layer: str) -> None:
    """Volatility reads the memory of ``truth`` from ``path``, and no more."""
    spans = spans_of(truth)
    expected = [hashlib.sha256(truth.read(start, end - start)).hexdigest() for start, end in spans]
    assert volatility_memory(path, spans) == (layer, expected, spans[-1][1] - 1)


@pytest.mark.parametrize("name", ["two-ranges.lime", "two-ranges.avml", "blocks-of-256k.avml"])
def test_volatility_reads_the_samples_as_we_do(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(lzma.decompress((DATA / f"{name}.xz").read_bytes()))
    with pydump.open(tmp_path / name, arch="x86_64") as dump:
        agrees(tmp_path / name, dump, LAYERS[name.rpartition(".")[2]])


@pytest.mark.parametrize("format_", LAYERS)
@pytest.mark.parametrize("guest", ["bare-x86_64", "bare-aarch64", "linux-x86_64", "bare-s390x"])
def test_volatility_reads_a_guest_as_we_wrote_it(
    format_: str, guest: str, qemu: Callable[[str, str], Path], tmp_path: Path
) -> None:
    pydump.dump(qemu(guest, "elf"), tmp_path / "out", format=format_)
    with pydump.open(qemu(guest, "elf")) as truth:
        agrees(tmp_path / "out", truth, LAYERS[format_])


def test_volatility_reads_memory_that_does_not_compress(tmp_path: Path) -> None:
    """It never ends on a block whose stream is longer than its memory."""
    chance = random.Random(1)
    memory = b"".join(chance.randbytes(4 << 20) if i in (1, 3, 4) else bytes(4 << 20) for i in range(5))
    source = BytesImage(Guest(MemoryMap(()), arch="x86_64"), {1 << 20: memory})
    pydump.dump(source, tmp_path / "out", format="avml")
    with pydump.open(tmp_path / "out", arch="x86_64") as dump:
        assert dump.read(1 << 20, len(memory)) == memory
        agrees(tmp_path / "out", dump, "AVMLLayer")


def by_hand(plugin: str, module: str) -> ModuleType:
    """What a plugin's own tests make files with."""
    path = Path(__file__).parents[2] / f"plugins/{plugin}/tests/{module}.py"
    spec = spec_from_file_location(module, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_volatility_reads_a_vmware_state_as_we_do(tmp_path: Path) -> None:
    vmware = by_hand("format-vmware", "test_vmware")
    (tmp_path / "guest.vmss").write_bytes(vmware.state({"memory": vmware.regions()}))
    (tmp_path / "guest.vmem").write_bytes(vmware.MEMORY)
    with pydump.open(tmp_path / "guest.vmss", arch="x86_64") as dump:
        agrees(tmp_path / "guest.vmem", dump, "VmwareLayer")


def test_libkdumpfile_reads_a_xen_core_as_we_do(tmp_path: Path) -> None:
    xen = by_hand("format-elf", "test_xen")
    memory = xen.memory(len(xen.PFNS))
    (tmp_path / "core").write_bytes(xen.core(xen.PFNS, memory, [xen.context(1)[0]]))
    (tmp_path / "ram").write_bytes(memory)
    places = [(pfn << 12, (pfn + 1) << 12, i << 12) for i, pfn in enumerate(xen.PFNS)]
    found = kdumpfile_pages([tmp_path / "core"], tmp_path / "ram", places, tmp_path)
    assert (found.same, found.different, found.missing, found.arch) == (len(xen.PFNS), [], [], "x86_64")
    with pydump.open(tmp_path / "core") as dump:
        for start, end, offset in places:
            assert dump.read(start, end - start) == memory[offset : offset + end - start]
