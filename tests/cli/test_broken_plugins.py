"""An error that a plugin did not mean to raise: one line that names the plugin, and its traceback with PYDUMP_DEBUG."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pydump.registry import installed

Run = Callable[..., Any]

#: A plugin of each role. The one whose turn it is raises what it did not mean to.
PLUGIN = '''
import functools
import os
from collections.abc import Iterator

from pydump import hookimpl
from pydump.builtin.raw import BytesImage
from pydump.interfaces.filter import Classified, Filter
from pydump.interfaces.image import MemoryImage
from pydump.interfaces.source import Source
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap
from pydump.testing import dummy
from pydump.testing.executors import SpawnedExecutor


def fails(base, **methods):
    """A class whose methods raise where it is their turn, and else do what those of its base do."""

    def made(method, place):
        @functools.wraps(method)
        def call(*args, **kwargs):
            if os.environ["FAILS_IN"] == place:
                if os.environ["FAILS"] == "returns":
                    return None
                raise {"": ZeroDivisionError, "OS": FileNotFoundError, "pipe": BrokenPipeError}[os.environ["FAILS"]](
                    "no\\nluck"
                )
            return method(*args, **kwargs)

        return call

    for name, place in methods.items():
        method = base.__dict__[name] if name in base.__dict__ else getattr(base, name)
        if isinstance(method, classmethod):
            setattr(base, name, classmethod(made(method.__func__, place)))
        else:
            setattr(base, name, made(method, place))
    return base


class Compressor(dummy.DummyCompressor):
    name = "bad"

    def compress(self, data):
        return super().compress(data)

    def decompress(self, data, size):
        return super().decompress(data, size)


class Encoder(dummy.DummyEncoder):
    def encode(self, batch):
        return super().encode(batch)

    def extents(self, encoded, start, answer=None):
        return super().extents(encoded, start, answer)


class Writer(dummy.DummyWriter):
    def headers(self):
        return super().headers()

    def encoder(self):
        return Encoder(self._compressor)

    def finish(self, end):
        return super().finish(end)


class Image(dummy.DummyImage):
    def guest(self):
        return super().guest()

    def read_into(self, paddr, buffer):
        super().read_into(paddr, buffer)


class Format(dummy.DummyFormat):
    name = "bad"
    compressors = ("bad",)

    @classmethod
    def detect(cls, head):
        return super().detect(head)

    @classmethod
    def open(cls, opened):
        return Image(opened.files[0], opened.decompressors)

    @classmethod
    def writer(cls, plan, compressor):
        return Writer(plan, compressor)


class SourceImage(BytesImage):
    def guest(self):
        return super().guest()

    def read_into(self, paddr, buffer):
        super().read_into(paddr, buffer)


class BadSource(Source):
    name = "bad"

    @classmethod
    def open(cls, argument, options=None):
        return SourceImage(Guest(MemoryMap(), arch="bad", byte_order="little"), {0: bytes(range(256)) * 65536})


class Arch(dummy.DummyArch):
    name = "bad"
    aliases = ()
    machine = 0xBAD

    @classmethod
    def complete(cls, guest):
        return super().complete(guest)

    @classmethod
    def address_space(cls, guest, read):
        return super().address_space(guest, read)


class BadFilter(Filter):
    name = "bad"
    classes = {"bad": "whatever is bad"}

    @classmethod
    def knows(cls, guest):
        return True

    @classmethod
    def classify(cls, source, guest, arch):
        return Classified({})


class Sink(dummy.MemorySink):
    def write(self, extent):
        super().write(extent)

    def commit(self, size):
        super().commit(size)


class Storage(dummy.MemoryStorage):
    name = "worse"

    @classmethod
    def reader(cls, url, options=None):
        return super().reader(url, options)

    @classmethod
    def writer(cls, url, options=None, *, force=False, sync=True):
        return Sink(url, force=force)


class BareWriter(dummy.DummyWriter):
    """Forgets what the interface asks for."""

    def __init__(self, plan, compressor):
        super().__init__(plan, compressor)
        del self.unit, self.size_limit


class BareFormat(dummy.DummyFormat):
    name = "bare"
    compressors = ()

    @classmethod
    def detect(cls, head):
        return False

    @classmethod
    def writer(cls, plan, compressor):
        return BareWriter(plan, compressor)


class Executor(SpawnedExecutor):
    name = "bad"

    @classmethod
    def open(cls, argument, options=None):
        return super().open(argument, options)

    def map(self, task):
        return super().map(task)


fails(Compressor, compress="compress", decompress="decompress")
fails(Encoder, encode="encode", extents="extents")
fails(Writer, headers="headers", encoder="encoder", finish="finish")
fails(Image, guest="image guest", read_into="image read")
fails(Format, detect="detect", open="format open", writer="format writer")
fails(SourceImage, guest="source guest", read_into="source read")
fails(BadSource, open="source open")
fails(Arch, complete="complete", address_space="address space")
fails(BadFilter, knows="knows", classify="classify")
fails(Sink, write="sink write", commit="commit")
fails(Storage, reader="reader", writer="storage writer")
fails(Executor, open="executor open", map="map")


@hookimpl
def pydump_register_formats():
    return [Format, BareFormat]


@hookimpl
def pydump_register_compressors():
    return [Compressor]


@hookimpl
def pydump_register_sources():
    return [BadSource]


@hookimpl
def pydump_register_arches():
    return [Arch]


@hookimpl
def pydump_register_filters():
    return [BadFilter]


@hookimpl
def pydump_register_storages():
    return [Storage]


@hookimpl
def pydump_register_executors():
    return [Executor]
'''

DUMP = "dump bad: out --format bad --compression bad --no-vmcoreinfo"
CONVERT = "dump good out --format bad --compression bad --no-vmcoreinfo"
#: Where the plugin fails, and a command that calls it there.
PLACES = [
    ("source open", "info bad:"),
    ("source guest", "info bad:"),
    ("source read", f"{DUMP} --workers 1"),
    ("source read", f"{DUMP} --workers 2"),
    ("source read", "verify bad: --workers 2"),
    ("complete", "info bad:"),
    ("address space", "read bad: --vaddr 0xffff800000000000 8"),
    ("knows", f"{DUMP} --exclude bad"),
    ("classify", f"{DUMP} --exclude bad"),
    ("format writer", DUMP),
    ("headers", DUMP),
    ("encoder", DUMP),
    ("encode", f"{DUMP} --workers 1"),
    ("encode", f"{DUMP} --workers 2"),
    ("encode", f"{CONVERT} --executor bad:2"),
    ("compress", f"{DUMP} --workers 2"),
    ("extents", f"{DUMP} --workers 1"),
    ("extents", f"{DUMP} --workers 2"),
    ("finish", DUMP),
    ("detect", "info good"),
    ("format open", "info good"),
    ("decompress", "info good"),
    ("image guest", "info good"),
    ("image read", "verify good --workers 1"),
    ("image read", "verify good --workers 2"),
    ("image read", "verify good --executor bad:2"),
    ("reader", "info worse://good"),
    ("storage writer", "dump bad: worse://out --format bad"),
    ("sink write", "dump bad: worse://out --format bad --workers 1"),
    ("sink write", "dump bad: worse://out --format bad --workers 2"),
    ("commit", "dump bad: worse://out --format bad"),
    ("executor open", "verify good --executor bad:2"),
    ("map", "verify good --executor bad:2"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``pip install`` leaves of a distribution with this plugin."""
    directory = tmp_path_factory.mktemp("site")
    (directory / "pydump_bad.py").write_text(PLUGIN)
    info = directory / "pydump_of_somebody-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pydump-of-somebody\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pydump]\nworst = pydump_bad\n")
    return directory


@pytest.fixture(autouse=True)
def bad(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands find the plugin: each loads what is installed for itself. This process does not load it."""
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("FAILS_IN", "")
    monkeypatch.setenv("FAILS", "")
    installed.cache_clear()
    yield
    installed.cache_clear()


@pytest.fixture
def good(site: Path, run: Run, tmp_path: Path) -> None:
    """A dump that the plugin has written."""
    if not (site / "good").exists():
        assert run(*DUMP.replace(" out", f" {site}/good").split()).code == 0
    (tmp_path / "good").write_bytes((site / "good").read_bytes())


@pytest.mark.parametrize(("place", "command"), PLACES)
def test_an_error_names_the_plugin_and_shows_where_it_failed(
    place: str, command: str, good: None, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS_IN", place)
    monkeypatch.setenv("PYDUMP_DEBUG", "1")
    done = run(*command.split())
    assert done.code == 1
    *traceback, line = done.err.splitlines()
    assert line.startswith("pydump: error: plugin worst of pydump-of-somebody: ZeroDivisionError: no luck"), line
    assert line.endswith("; PYDUMP_DEBUG=1 shows the traceback")
    assert traceback[0] == "Traceback (most recent call last):"
    assert any("pydump_bad.py" in text and text.endswith("in call") for text in traceback), done.err
    assert [path.name for path in tmp_path.iterdir()] == ["good"]


@pytest.mark.parametrize(("place", "command"), [("format open", "info good"), ("encode", f"{DUMP} --workers 2")])
@pytest.mark.parametrize(
    ("fault", "says"), [("", "ZeroDivisionError"), ("OS", "FileNotFoundError"), ("pipe", "BrokenPipeError")]
)
def test_an_error_is_one_line(
    place: str, command: str, fault: str, says: str, good: None, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS_IN", place)
    monkeypatch.setenv("FAILS", fault)
    done = run(*command.split())
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert line.startswith(f"pydump: error: plugin worst of pydump-of-somebody: {says}: no luck")


@pytest.mark.parametrize(
    ("place", "command", "says"),
    [
        ("format writer", DUMP, "Format.writer returns NoneType, not a Writer"),
        ("format open", "info good", "Format.open returns NoneType, not a MemoryImage"),
        ("source open", "info bad:", "BadSource.open returns NoneType, not a MemoryImage"),
        ("classify", f"{DUMP} --exclude bad", "BadFilter.classify returns NoneType, not a Classified"),
        ("reader", "info worse://good", "Storage.reader returns NoneType, not a Backing"),
        ("storage writer", "dump bad: worse://out --format bad", "Storage.writer returns NoneType, not a Sink"),
        ("executor open", "verify good --executor bad:2", "Executor.open returns NoneType, not an Executor"),
        ("", "dump bad: out --format bare", "BareWriter has no unit, size_limit"),
    ],
)
def test_what_a_method_must_return_is_said(
    place: str, command: str, says: str, good: None, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS_IN", place)
    monkeypatch.setenv("FAILS", "returns")
    done = run(*command.split())
    assert (done.code, done.err) == (1, f"pydump: error: plugin worst of pydump-of-somebody: {says}\n")


def test_every_error_shows_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYDUMP_DEBUG", "1")
    done = run("info", "nowhere")
    assert done.code == 1
    assert done.err.startswith("Traceback (most recent call last):\n")
    assert done.err.endswith("pydump: error: cannot open nowhere: No such file or directory\n")
