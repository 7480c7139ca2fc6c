"""The catalog says of every name in the folders what to install, and knows the files that nothing here reads."""

from __future__ import annotations

import struct
import tomllib
from pathlib import Path

import pytest

import pydump
from pydump import catalog
from pydump.errors import FormatError, UnknownPluginError
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap
from pydump.registry import Registry, installed

ROOT = Path(__file__).parents[2]
DATA = tomllib.loads((ROOT / "core/src/pydump/catalog.toml").read_text())


def test_every_name_in_the_folders_has_its_distribution() -> None:
    projects = [tomllib.loads(p.read_text())["project"] for p in ROOT.glob("plugins/*/pyproject.toml")]
    folders = {project["name"] for project in projects if "entry-points" in project}  # the others are libraries
    ours = {
        (role, cls.name, plugin.distribution)
        for plugin in installed().plugins
        for role, cls in plugin.classes
        if plugin.distribution in folders
    }
    said = {(role, name, d) for role, names in DATA["install"].items() for name, d in names.items()}
    there = {distribution for _, _, distribution in ours}  # a plugin that is new may not be set up here yet
    assert {entry for entry in said if entry[2] in there} == ours
    assert {distribution for _, _, distribution in said} == folders - {"pydump-compressor-isal"}


def test_first_bytes_are_those_that_a_format_or_compressor_takes() -> None:
    registry = installed()
    for entry in DATA["files"]:
        for head in catalog.beginnings(entry):
            takers = [cls.name for cls in registry.formats() if cls.detect(head.ljust(4096, b"\0"))]
            packers = [cls.name for cls in registry.compressors() if cls.file_magic and head.startswith(cls.file_magic)]
            if "format" in entry:
                assert takers == [entry["format"]]
            elif "compressor" in entry:
                assert packers == [entry["compressor"]]
            elif "contains" not in entry:
                assert takers == packers == [], "what is read need not be named"
            assert len(head) >= 2 if "contains" in entry else len(head) >= 4


def test_an_entry_is_complete_and_says_what_to_do() -> None:
    for entry in DATA["files"]:
        assert {"begins"} < set(entry)
        assert len({"format", "compressor", "name"} & set(entry)) == 1
        assert ("name" in entry) == ("way" in entry)
        assert not entry.get("way", "").endswith(".")


#: First bytes as other programs write them. Source: beside each entry of the catalog.
FOREIGN = {
    "VMware": struct.pack("<III", 0xBED0BED0, 8, 91),
    "minidump": b"MDMP\x93\xa7",
    "hiberfil.sys": b"HIBR" + bytes(8),
    "xl save": b"\xff" * 8 + b"XENF" + struct.pack(">I", 2),
    "s390 stand-alone": struct.pack(">QII", 0xA8190173618F23FD, 5, 4096),
    "VMDUMP": "SR3090".encode("cp500") + bytes(40) + "VMDUMP  ".encode("cp500"),
    "LKCD": struct.pack("<QI", 0xA8190173618F23ED, 8),
    "sadump": b"sadump\0\0" + bytes(8),
    "lzop": b"\x89LZO\0\r\n\x1a\n",
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("size", [4096, 1 << 16])
def test_a_file_that_is_not_read_is_named_with_a_way_out(name: str, size: int, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(FOREIGN[name].ljust(size, b"\0"))
    with pytest.raises(FormatError, match="which is not read") as caught:
        pydump.open(tmp_path / "in")
    assert name.lower() in caught.value.message.lower()
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("head", "needed"),
    [
        (b"\x7fELF", "format-elf"),
        (b"KDUMP   ", "format-kdump"),
        (b"EMiL\1\0\0\0", "format-lime"),
        (b"PAGEDU64", "format-windmp"),
        (b"AVML\2\0\0\0", "format-avml"),
        (b"\x28\xb5\x2f\xfd", "compressor-zstd"),
    ],
)
def test_what_a_plugin_reads_says_which_to_install(head: bytes, needed: str) -> None:
    seen = catalog.known_file(head.ljust(4096, b"\0"))
    assert seen is not None
    assert (seen.name, seen.hint) == ("", f"pip install pydump-{needed}")


@pytest.mark.parametrize("url", ["ftp://host/vmcore", "swift://bucket/vmcore", "nfs://host/x", "ssh://host/x"])
def test_a_url_whose_scheme_nothing_has_says_what_to_do(url: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownPluginError, match="through a pipe"):
        pydump.open(url)
    source = pydump.BytesImage(Guest(MemoryMap(()), arch="x86_64"), {0: bytes(4096)})
    with pytest.raises(UnknownPluginError, match="through a pipe"):
        pydump.dump(source, url)


def test_a_name_that_nothing_has_says_what_to_install() -> None:
    empty = Registry(())
    for role, names in DATA["install"].items():
        for name, distribution in names.items():
            with pytest.raises(UnknownPluginError, match=f"pip install {distribution}"):
                empty._get(role, name)
