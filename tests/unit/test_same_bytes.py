"""Every format with every compressor: the same file from one process and from three, and the same guest in it."""

from __future__ import annotations

import functools
import lzma
from pathlib import Path
from typing import Any

import pytest

import pydump
from pydump.builtin.local import LocalExecutor
from pydump.engine.open import open_source
from pydump.engine.run import run_dump
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap
from pydump.model.request import Request
from pydump.registry import installed
from pydump.testing import guests

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[1] / "data/qemu/nano-x86_64/elf.xz"
PAGE = 4096

FORMS: dict[str, dict[str, Any]] = {
    "elf": {"format": "elf"},
    "elf-sparse": {"format": "elf", "options": {"elf": {"sparse": True}}},
    "kdump-dedup": {"compression": "none", "options": {"kdump": {"dedup": True}}},
    "kdump-zlib-dedup": {"compression": "zlib", "options": {"kdump": {"dedup": True}}},
    **{f"kdump-{name}": {"compression": name} for name in ("none", "zlib", "lzo", "snappy", "zstd")},
    **{
        f"kdump-zlib-by-{library}": {"compression": "zlib", "options": {"zlib": {"library": library}}}
        for library in ("zlib-ng", "isal", "zlib")
    },
}


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """QEMU's dump of a small booted guest."""
    path = tmp_path_factory.mktemp("guest") / "elf"
    path.write_bytes(lzma.decompress(DATA.read_bytes()))
    return str(path)


@functools.cache
def synthetic() -> pydump.BytesImage:
    """Pages of every kind, in two blocks that do not touch, some of them more than once."""
    low, high = guests.memory(1500), guests.memory(300, seed=9)
    twice = bytes(low) + guests.random_page(1) * 3 + bytes(high)
    return pydump.BytesImage(Guest(MemoryMap()), {0: twice, 1 << 32: bytes(high)})


def missing(form: str) -> str | None:
    """Why a form cannot be written here."""
    from importlib.util import find_spec

    name = FORMS[form].get("compression", "none")
    if name not in ("none", *installed().names("compressor")):
        return f"pydump-compressor-{name} is not installed"
    if form.endswith("isal") and not find_spec("isal"):
        return "isal is not installed"
    return None


@pytest.mark.parametrize("flatten", [False, True], ids=["plain", "flattened"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("guest", ["booted", "synthetic"])
def test_the_same_bytes_whoever_writes_them(guest: str, form: str, flatten: bool, booted: str, tmp_path: Path) -> None:
    if why := missing(form):
        pytest.skip(why)
    request = Request(**{"format": "kdump", "arch": "x86_64", "flatten": flatten, "sync": False} | FORMS[form])
    files = {}
    for workers in (1, 3):
        out = tmp_path / str(workers)
        with open_source(booted, installed()) if guest == "booted" else synthetic() as source:
            report = run_dump(
                source, "", str(out), request, installed(), executor=LocalExecutor(workers), batch_size=64 * PAGE
            )
        assert report.workers == workers
        files[workers] = out.read_bytes()
    assert files[1] == files[3]
    assert pydump.verify(str(tmp_path / "3"), workers=1).ok
    if guest == "booted":
        compared = pydump.compare(booted, str(tmp_path / "3"), workers=1)
        assert compared.same, compared.differences
    else:
        memory = synthetic()
        with pydump.open(str(tmp_path / "3")) as vmcore:
            for block in memory.guest().memory:
                want = bytearray(block.size)
                memory.read_into(block.paddr, memoryview(want))
                assert vmcore.read(block.paddr, block.size) == want


def test_equal_pages_are_stored_once(tmp_path: Path) -> None:
    source = synthetic()
    pages = []
    for block in source.guest().memory:
        data = bytearray(block.size)
        source.read_into(block.paddr, memoryview(data))
        pages += [bytes(data[at : at + PAGE]) for at in range(0, len(data), PAGE)]
    held = [page for page in pages if any(page)]
    assert len(set(held)) < len(held)
    sizes = {}
    for dedup in (False, True):
        report = pydump.dump(
            source,
            str(tmp_path / str(dedup)),
            arch="x86_64",
            compression="none",
            options={"kdump": {"dedup": dedup}},
            sync=False,
        )
        sizes[dedup] = report.output_size
    assert sizes[False] - sizes[True] == (len(held) - len(set(held))) * PAGE


def test_pages_that_are_taken_over_are_stored_once_too(tmp_path: Path) -> None:
    if why := missing("kdump-zlib"):
        pytest.skip(why)
    plain, direct, taken = (str(tmp_path / name) for name in ("plain", "direct", "taken"))
    dedup = {"kdump": {"dedup": True}}
    pydump.dump(synthetic(), plain, arch="x86_64", compression="zlib", sync=False)
    pydump.dump(synthetic(), direct, arch="x86_64", compression="zlib", options=dedup, sync=False)
    pydump.dump(plain, taken, compression="zlib", options=dedup, sync=False)
    assert Path(taken).read_bytes() == Path(direct).read_bytes()
    again = str(tmp_path / "again")
    pydump.dump(taken, again, compression="zlib", sync=False)
    assert Path(again).read_bytes() == Path(plain).read_bytes()


def test_sparse_leaves_holes(tmp_path: Path) -> None:
    memory = bytearray(8 << 20)
    memory[5 << 20 : (5 << 20) + PAGE] = guests.text_page(3)
    source = pydump.BytesImage(Guest(MemoryMap()), {0: bytes(memory)})
    for sparse in (False, True):
        out = tmp_path / str(sparse)
        options = {"elf": {"sparse": sparse}}
        report = pydump.dump(source, str(out), arch="x86_64", format="elf", options=options, sync=False)
    full, holed = (tmp_path / name for name in ("False", "True"))
    assert full.read_bytes() == holed.read_bytes()
    assert report.zero_size >= (8 << 20) - 5 * PAGE  # two each at the edges of a batch and of the page
    if full.stat().st_blocks * 512 < 8 << 20:
        pytest.skip("this file system finds zeros by itself")
    assert holed.stat().st_blocks * 512 < 1 << 20


def test_an_option_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(pydump.PydumpError, match=r"--sparse is of format elf, and the dump is kdump"):
        pydump.dump(synthetic(), str(tmp_path / "out"), arch="x86_64", options={"elf": {"sparse": True}})
    with pytest.raises(pydump.PydumpError, match=r"--dedup or --compat"):
        pydump.dump(
            synthetic(), str(tmp_path / "out"), arch="x86_64", compat="qemu", options={"kdump": {"dedup": True}}
        )
