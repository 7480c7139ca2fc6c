"""What another process needs to open the same memory."""

from __future__ import annotations

import gzip
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import pydump
from pydump.builtin.raw import ReopenRaw
from pydump.engine.live import view_of
from pydump.engine.open import open_source
from pydump.engine.salvage import filled
from pydump.errors import SourceError, UnsupportedError
from pydump.interfaces.format import Format, Opened
from pydump.interfaces.image import MemoryImage
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap
from pydump.registry import PluginInfo, Registry, installed
from pydump.testing import guests
from pydump.testing.reopen import faults_of_reopening, fingerprint

RAM = bytes(guests.memory(100))


def opened(spec: str | Path) -> MemoryImage:
    return view_of(open_source(str(spec), installed()))


def raw(here: Path) -> str:
    (here / "low").write_bytes(RAM)
    return "raw:low[0x1000:0x20000]@1M,low[0x30000:]@4G"


def written(here: Path, **how: object) -> str:
    image = pydump.BytesImage(Guest(MemoryMap(), arch="x86_64"), {0: RAM, 1 << 30: RAM[:8192]})
    pydump.dump(image, here / "vmcore", workers=1, sync=False, **how)  # type: ignore[arg-type]
    return "vmcore"


def split(here: Path) -> str:
    image = pydump.BytesImage(Guest(MemoryMap(), arch="x86_64"), {0: RAM, 1 << 30: RAM[:8192]})
    pydump.dump(image, here / "part%d", split=3, workers=1, sync=False)
    return "part0,part1,part2"


CASES: dict[str, Callable[[Path], str]] = {
    "raw": raw,
    "elf": lambda here: written(here, format="elf"),
    "kdump": written,
    "flattened kdump": lambda here: written(here, flatten=True),
    "split kdump": split,
}


@pytest.mark.parametrize("case", CASES)
def test_a_process_that_inherits_nothing_opens_the_same(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the other process is elsewhere
    with opened(CASES[case](tmp_path)) as image:
        assert len(pickle.dumps(image.reopen())) < 4096
        assert faults_of_reopening(image) == []


def test_an_image_is_pickled_as_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(RAM)
    with opened(f"raw:{tmp_path / 'ram'}") as image, pickle.loads(pickle.dumps(image)) as again:
        assert again is not image and fingerprint(again) == fingerprint(image)
        assert fingerprint(pickle.loads(pickle.dumps(filled(image, 4096)))) == fingerprint(image)
    held = pydump.BytesImage(Guest(MemoryMap()), {0: RAM})
    assert fingerprint(pickle.loads(pickle.dumps(held))) == fingerprint(held)


def test_an_image_without_a_recipe_is_not_pickled(tmp_path: Path) -> None:
    (tmp_path / "packed").write_bytes(gzip.compress(RAM))
    refused = pytest.raises(UnsupportedError, match="no other process can open this memory; dump it to a file")
    with opened(f"raw:{tmp_path / 'packed'}") as image, refused:
        pickle.dumps(image)


def test_what_is_reopened_can_be_reopened_and_closed_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for case in CASES.values():
        with opened(case(tmp_path)) as image:
            recipe = image.reopen()
            assert recipe is not None
            with recipe.open() as again:
                assert again.reopen() == recipe
                same = fingerprint(again)
            assert fingerprint(image) == same  # it has its own files
        for path in tmp_path.iterdir():
            path.unlink()


@pytest.mark.parametrize("case", CASES)
def test_a_file_that_has_changed_is_not_reopened(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with opened(CASES[case](tmp_path)) as image:
        recipe = image.reopen()
    assert recipe is not None
    last = sorted(tmp_path.iterdir())[-1]
    os.utime(last, ns=(0, 0))
    with pytest.raises(SourceError, match=f"{last.name} has changed since it was opened; start again"):
        recipe.open()
    last.unlink()
    with pytest.raises(SourceError, match="No such file"):
        recipe.open()


def test_what_was_unpacked_or_came_through_a_pipe_is_not_reopened(tmp_path: Path) -> None:
    plain = tmp_path / written(tmp_path)
    (tmp_path / "packed").write_bytes(gzip.compress(plain.read_bytes()))
    with opened(tmp_path / "packed") as image:
        assert image.reopen() is None
    with opened(f"raw:{tmp_path / 'packed'}[0:]") as image:
        assert faults_of_reopening(image) == []  # the packed bytes themselves are taken for RAM
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cp", plain, tmp_path / "pipe"]), opened(tmp_path / "pipe") as image:
        assert image.reopen() is None
    assert pydump.BytesImage(Guest(MemoryMap()), {0: RAM}).reopen() is None


class Beside(Format):
    """A format whose memory is in a file beside its own."""

    name = "beside"

    @classmethod
    def detect(cls, head: bytes) -> bool:
        return head == b"the memory is beside"

    @classmethod
    def open(cls, opened: Opened) -> MemoryImage:
        beside = opened.sibling("ram")
        assert beside is not None and opened.sibling("nothing") is None
        return pydump.BytesImage(Guest(MemoryMap()), {0: beside.read(0, beside.size)})


def test_a_file_beside_the_first_is_reopened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "facts").write_bytes(b"the memory is beside")
    (tmp_path / "ram").write_bytes(RAM)
    monkeypatch.chdir(tmp_path)
    known = installed()
    registry = Registry((*known.plugins, PluginInfo("beside", "", "", (("format", Beside),))))
    with view_of(open_source("facts", registry)) as image:
        recipe = image.reopen()
        assert recipe is not None
        monkeypatch.chdir("/")
        with recipe.open() as again:
            assert fingerprint(again) == fingerprint(image)
    (tmp_path / "ram").write_bytes(RAM[:4096])
    with pytest.raises(SourceError, match="ram has changed"):
        recipe.open()


def test_a_recipe_for_other_memory_is_found_by_the_kit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(RAM)
    (tmp_path / "b").write_bytes(RAM[::-1])
    with opened(f"raw:{tmp_path / 'a'}") as one, opened(f"raw:{tmp_path / 'b'}") as other:
        image = pydump.BytesImage(one.guest(), {0: RAM})
        image.recipe = other.reopen()
        assert faults_of_reopening(image) == ["another process sees other facts or memory"]
        image.recipe = ReopenRaw((), (), placed=False)
        assert faults_of_reopening(image) == [
            "it cannot be reopened: pydump.errors.SourceError: raw: the files are empty"
        ]
