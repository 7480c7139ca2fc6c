"""What a name leads to: a path, a URL, or what a source plugin opens."""

from __future__ import annotations

from pathlib import Path

import pytest

from pydump import builtin
from pydump.builtin.raw import RawSource
from pydump.builtin.storages import DescriptorStorage, FileStorage
from pydump.engine.locate import Named, Stored, find_source, find_stored
from pydump.errors import PlanError, UnknownPluginError
from pydump.registry import Registry, registry_of
from pydump.testing import dummy
from pydump.testing.dummy import MemoryStorage


@pytest.fixture(scope="module")
def registry() -> Registry:
    return registry_of([("core", builtin), ("dummy", dummy)])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "leads"),
    [
        ("-", Stored(DescriptorStorage, "-")),
        ("fd:3", Stored(DescriptorStorage, "fd:3")),
        ("vmcore", Stored(FileStorage, "file:vmcore")),
        ("/var/crash/vmcore", Stored(FileStorage, "file:///var/crash/vmcore")),
        ("//var/vmcore", Stored(FileStorage, "file:////var/vmcore")),
        ("./foo:bar", Stored(FileStorage, "file:./foo:bar")),
        ("vmcore-12:30", Stored(FileStorage, "file:vmcore-12:30")),
        ("2026-11-26T12:30", Stored(FileStorage, "file:2026-11-26T12:30")),
        ("127.0.0.1-2026-11-26-12:30/vmcore", Stored(FileStorage, "file:127.0.0.1-2026-11-26-12:30/vmcore")),
        (":x", Stored(FileStorage, "file::x")),
        ("", Stored(FileStorage, "file:")),
        ("file:vmcore", Stored(FileStorage, "file:vmcore")),
        ("dummy://a/b", Stored(MemoryStorage, "dummy://a/b")),
        ("DUMMY://a/b", Stored(MemoryStorage, "DUMMY://a/b")),
        ("dummy:a", Stored(MemoryStorage, "dummy:a")),
    ],
)
def test_a_name_leads_to_the_same_place_for_reading_and_writing(name: str, leads: Stored, registry: Registry) -> None:
    assert find_stored(name, registry) == leads
    assert find_source(name, registry) == (leads,)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:vmcore", "vmcore"),
        ("file:/a/b", "/a/b"),
        ("file:///a/b", "/a/b"),
        ("file://localhost/a", "/a"),
        ("file:////a", "//a"),
    ],
)
def test_a_file_url_is_a_path(url: str, path: str) -> None:
    assert FileStorage.path(url) == path


def test_a_file_of_another_host_is_refused() -> None:
    with pytest.raises(PlanError, match="^file://there/vmcore is on the host there; write file:///PATH"):
        FileStorage.path("file://there/vmcore")


def test_parts_are_found_one_by_one(registry: Registry) -> None:
    assert find_source("a,dummy://b", registry) == (Stored(FileStorage, "file:a"), Stored(MemoryStorage, "dummy://b"))


def test_a_source_takes_all_behind_its_colon(registry: Registry) -> None:
    assert find_source("raw:a@0,b:c@4G", registry) == Named(RawSource, "a@0,b:c@4G")


def test_a_url_of_a_source_that_is_not_installed_says_what_to_install(registry: Registry) -> None:
    with pytest.raises(UnknownPluginError, match="^unknown source or storage 'libvirt.qemu'.*pydump-source-libvirt$"):
        find_source("libvirt+qemu:///system:vm", registry)


def test_a_source_opens_the_url_behind_its_plus(registry: Registry) -> None:
    assert find_source("raw+qemu:///session:vm", registry) == Named(RawSource, "qemu:///session:vm")


@pytest.mark.parametrize("name", ["foo:bar", "raw:x", "foo:bar/x", "a,b", "dummy:x", "dummy://x"])
def test_what_exists_under_a_name_is_a_file(name: str, tmp_path: Path, registry: Registry) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    assert find_stored(name, registry) == Stored(FileStorage, f"file:{name}")
    assert find_source(name, registry) == (Stored(FileStorage, f"file:{name}"),)


def test_a_new_file_in_a_directory_that_is_there_is_a_file(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "foo:bar").mkdir()
    assert find_stored("foo:bar/vmcore", registry) == Stored(FileStorage, "file:foo:bar/vmcore")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("foo:bar", "unknown storage 'foo'; available: dummy, fd, file; ./foo:bar is the file of that name"),
        ("raw:x", "unknown storage 'raw'; available: dummy, fd, file; raw is a source, which is only read; "),
        ("qmp:x", "unknown storage 'qmp'; available: dummy, fd, file; qmp is a source, which is only read; "),
        ("foo://bar/x", "unknown storage 'foo'; available: dummy, fd, file; write it through a pipe"),
    ],
)
def test_an_unknown_name_of_an_output_is_not_a_file(name: str, said: str, registry: Registry) -> None:
    with pytest.raises(UnknownPluginError) as caught:
        find_stored(name, registry)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("foo:bar", "unknown source or storage 'foo'; available: dummy, fd, file, raw; ./foo:bar is the file of that"),
        ("qmp:x", "unknown source or storage 'qmp'; available: dummy, fd, file, raw; pip install pydump-source-qemu"),
        ("foo://bar/x", "unknown source or storage 'foo'; available: dummy, fd, file, raw; fetch it through a pipe"),
        ("vmcore,foo:x", "unknown source or storage 'foo'; available: dummy, fd, file, raw; ./foo:x is the file"),
    ],
)
def test_an_unknown_name_of_a_source_says_what_to_do(name: str, said: str, registry: Registry) -> None:
    with pytest.raises(UnknownPluginError) as caught:
        find_source(name, registry)
    assert str(caught.value).startswith(said)
