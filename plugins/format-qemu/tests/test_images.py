"""What QEMU and libvirt wrote, in every container: equal to QEMU's own dump of the same guest."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

import pydump
from pydump.errors import FormatError, PlanError, PydumpError, UnsupportedError
from pydump.model.memory import Ranges
from pydump.testing.format import FormatTests
from pydump_format_qemu import QemuFormat
from pydump_qemu_stream.domain import read_domain
from stream_samples import DATA, SAMPLES, content

pytestmark = pytest.mark.slow

Sample = Callable[[str], Path]
#: Containers, the dump of the same guest, and options.
CONTAINERS: list[tuple[str, str, dict[str, str]]] = [
    *((name, elf, {}) for name, elf, start in SAMPLES if not start),
    ("x86_64-7-ignoreshared.stream", "x86_64-7.elf", {"backing": "ram=ram.raw"}),
    ("paused-raw.save", "paused.elf", {}),
    ("dump-raw", "paused.elf", {}),
    ("dump-gzip", "paused.elf", {}),
    ("sparse-by-hand.save", "sparse-by-hand.elf", {}),
    ("x86_64-10-two-snapshots.qcow2", "x86_64-10.elf", {"snapshot": "snapA"}),
    ("x86_64-10-two-snapshots.qcow2", "x86_64-10.elf", {"snapshot": "2"}),
]


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Gives a sample's path. Do not write to it."""
    directory = tmp_path_factory.mktemp("samples")

    def unpack(name: str) -> Path:
        path = directory / name
        if not path.exists():
            with path.open("wb") as file:
                data = content(name) if (DATA / f"{name}.xz").exists() else (DATA / name).read_bytes()
                for at in range(0, len(data), 1 << 20):
                    if any(data[at : at + (1 << 20)]):
                        file.seek(at)
                        file.write(data[at : at + (1 << 20)])
                file.truncate(len(data))
        return path

    return unpack


def memory(dump: pydump.Dump) -> bytes:
    """All memory up to 4 MiB of each block; what follows is checked by compare."""
    return b"".join(dump.read(block.paddr, min(block.size, 4 << 20)) for block in dump.guest.memory)


@pytest.mark.parametrize(
    ("name", "elf", "options"), CONTAINERS, ids=[f"{n}-{'-'.join(o.values())}" for n, _, o in CONTAINERS]
)
def test_memory_and_registers_are_those_of_qemus_dump(
    name: str, elf: str, options: dict[str, str], sample: Sample
) -> None:
    sample("ram.raw")
    with pydump.open(sample(name), options={"qemu": options}) as ours, pydump.open(sample(elf)) as theirs:
        assert ours.guest.memory.ranges() == theirs.guest.memory.ranges()
        assert ours.guest.notes == theirs.guest.notes
        assert memory(ours) == memory(theirs)
        for fact in ("arch", "byte_order", "elf_class", "page_size", "phys_base", "n_cpus"):
            assert getattr(ours.guest, fact) == getattr(theirs.guest, fact), fact
        assert not ours.image.unreadable()
        assert not ours.image.warnings()
    found = pydump.compare(sample(name), sample(elf), options={"qemu": options})
    assert not found.differences


@pytest.mark.parametrize("name", ["running-gzip.save", "running-xz.save"])
def test_a_guest_that_ran(name: str, sample: Sample) -> None:
    with pydump.open(sample(name)) as dump:
        assert len(dump.cpus) == 2
        assert not dump.image.warnings()
        # The firmware's reset vector, by the source of SeaBIOS: a far jump.
        assert dump.read(0xFFFFFFF0, 5) == b"\xea\x5b\xe0\x00\xf0"


def test_shared_memory_is_lost_until_its_file_is_named(sample: Sample) -> None:
    with pydump.open(sample("x86_64-7-ignoreshared.stream")) as dump:
        assert "use --qemu-backing ram=FILE" in dump.image.warnings()[0]
        assert dump.image.unreadable().size == (4 << 20) - 0x40000
    with pytest.raises(PlanError, match="there is no file elsewhere beside"):
        pydump.open(sample("x86_64-7-ignoreshared.stream"), options={"qemu": {"backing": "ram=elsewhere"}})


def test_memory_devices_are_where_the_guest_has_them(sample: Sample) -> None:
    with pydump.open(sample("q35-10-dimm-virtio-mem.stream")) as dump:
        assert dump.guest.memory.ranges() == Ranges.of([(0, 64 << 20), (0xFFFC0000, 0x108000000)])
        assert "d1 is taken to be at 0x100000000" in dump.image.warnings()[0]
    with pydump.open(sample("q35-10-dimm-virtio-mem.stream"), options={"qemu": {"place": "d1=0x140000000"}}) as dump:
        assert not dump.image.warnings()
        assert dump.guest.memory.end == 0x148000000


@pytest.mark.parametrize(
    ("options", "why"),
    [({}, "has 2 snapshots; use --qemu-snapshot NAME: snapA"), ({"snapshot": "x"}, "has no snapshot 'x'")],
)
def test_a_snapshot_must_be_named(options: dict[str, str], why: str, sample: Sample) -> None:
    with pytest.raises(PlanError, match=why):
        pydump.open(sample("x86_64-10-two-snapshots.qcow2"), options={"qemu": options})


def test_the_end_of_a_file_with_mapped_ram(sample: Sample, tmp_path: Path) -> None:
    """QEMU counts from the file's beginning (file:PATH,offset=N); what is cut out counts from its own."""
    (tmp_path / "cut").write_bytes(content("x86_64-10-mappedram-off")[0x123000:])
    with pydump.open(tmp_path / "cut") as ours, pydump.open(sample("x86_64-10.elf")) as theirs:
        assert memory(ours) == memory(theirs)


def test_junk_behind_a_stream_does_not_matter(sample: Sample, tmp_path: Path) -> None:
    """A stream on a block device is followed by what was there."""
    (tmp_path / "long").write_bytes(content("x86_64-7.stream") + b"\x06\0\0\0\x02{}" + b"junk" * 1000)
    with pydump.open(tmp_path / "long") as dump:
        assert len(dump.cpus) == 2
        assert not dump.image.warnings()


@pytest.mark.parametrize(
    "name", ["s390x-7.stream", "x86_64-10-mappedram", "paused-raw.save", "x86_64-7-compress.stream"]
)
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9, 0.999])
def test_a_cut_file_gives_what_is_there(name: str, part: float, sample: Sample, tmp_path: Path) -> None:
    whole = content(name)
    (tmp_path / "cut").write_bytes(whole[: int(len(whole) * part)])
    with pydump.open(tmp_path / "cut") as ours, pydump.open(sample(name)) as all_of_it:
        lost = ours.image.unreadable()
        assert ours.image.warnings()
        arch = {"s390x-7.stream": "s390x"}.get(name)
        base = all_of_it.guest.memory.ranges()
        for start, end in ours.stated.memory.ranges().intersect(base).subtract(lost):
            if arch is None and start < 0x100000:
                start = 0x100000  # without its devices it is not known what is ROM
            if start < end:
                assert read(ours, start, end - start) == read(all_of_it, start, end - start)
    done = pydump.dump(tmp_path / "cut", tmp_path / "out", format="elf", arch=arch or "i386")
    assert bool(done.unreadable_size) == bool(lost)


def read(dump: pydump.Dump, paddr: int, size: int) -> bytes:
    buffer = bytearray(size)
    dump.image.read_into(paddr, memoryview(buffer))
    return bytes(buffer)


def test_a_stream_without_any_ram_is_refused(tmp_path: Path) -> None:
    for size in (0, 8, 60):
        (tmp_path / "short").write_bytes(content("x86_64-7.stream")[:size] or b"QEVM")
        with pytest.raises(FormatError):
            pydump.open(tmp_path / "short")


def test_save_images_of_other_hosts_and_unfinished_ones(sample: Sample, tmp_path: Path) -> None:
    """Source: struct _virQEMUSaveHeader in src/qemu/qemu_saveimage.h."""
    whole = content("paused-raw.save")
    fields = struct.unpack_from("<5I", whole, 16)
    swapped = whole[:16] + struct.pack(">5I", *fields) + whole[36:]
    (tmp_path / "swapped").write_bytes(swapped)
    with pydump.open(tmp_path / "swapped") as dump:
        assert len(dump.cpus) == 2
    (tmp_path / "unfinished").write_bytes(b"LibvirtQemudPart" + whole[16:])
    with pydump.open(tmp_path / "unfinished") as dump:
        assert "has not finished" in dump.image.warnings()[0]


def header(format: int, length: int = 0, version: int = 2) -> bytes:
    return b"LibvirtQemudSave" + struct.pack("<5I", version, length, 1, format, 0) + bytes(56)


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize(("number", "compress"), [(1, gzip.compress), (2, bz2.compress), (3, lzma.compress), (5, zstd)])
def test_save_images_in_each_compression(
    number: int, compress: Callable[[bytes], bytes], sample: Sample, tmp_path: Path
) -> None:
    """Source of the numbers: enum virQEMUSaveFormat in src/qemu/qemu_saveimage.c."""
    whole = content("paused-raw.save")
    length = struct.unpack_from("<I", whole, 20)[0]
    packed = header(number, length) + whole[92 : 92 + length] + compress(whole[92 + length :])
    (tmp_path / "packed").write_bytes(packed)
    with pydump.open(tmp_path / "packed") as ours, pydump.open(sample("paused.elf")) as theirs:
        assert memory(ours) == memory(theirs)
        assert not ours.image.warnings()
    if number == 2:
        return  # all of it is one block of bzip2's, which unpacks or does not
    (tmp_path / "packed").write_bytes(packed[:-2000])
    with pydump.open(tmp_path / "packed", arch="i386") as ours:
        assert any("cut off" in line for line in ours.image.warnings())


@pytest.mark.parametrize(
    ("data", "error", "why"),
    [
        (header(4), UnsupportedError, r"compressed with lzop; unpack the stream in it: tail -c \+93 FILE"),
        (header(7), FormatError, "unknown version or damaged"),
        (header(0, version=3), FormatError, "unknown version or damaged"),
        (header(0, 1 << 20), FormatError, "ends within the domain's XML"),
        (header(0)[:20], FormatError, "ends within libvirt's header"),
        (header(1) + b"\x1f\x8b\x08not gzip", PydumpError, ""),
        (header(0) + b"no stream", FormatError, "not a migration stream"),
    ],
)
def test_a_damaged_save_image(data: bytes, error: type[PydumpError], why: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(data)
    with pytest.raises(error, match=why or None):
        pydump.open(tmp_path / "in")


def test_what_a_domain_says() -> None:
    """Source: libvirt's formatdomain, "Memory devices"; the XML of a running domain."""
    text = b"""<domain><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os><devices>
      <memory model='dimm'><alias name='dimm0'/><address type='dimm' slot='0' base='0x100000000'/></memory>
      <memory model='dimm'><address type='dimm' slot='7' base='0x180000000'/></memory>
      <memory model='dimm'><alias name='dimm1'/><address type='dimm' slot='1'/></memory></devices></domain>"""
    domain, fault = read_domain(text)
    assert (domain.arch, domain.machine, domain.dimms, fault) == (
        "x86_64",
        "pc-q35-7.2",
        {"memdimm0": 1 << 32, "memdimm7": 6 << 30},
        "",
    )
    bomb = b'<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><domain>&b;</domain>'
    for odd in (b"", b"<domain>", b"\xff\xfe", bomb):
        assert read_domain(odd)[1]


#: Where fields of a qcow2 header are, and their sizes. Source: docs/interop/qcow2.txt of QEMU.
FIELDS = {
    "version": (4, 4),
    "cluster_bits": (20, 4),
    "crypt": (32, 4),
    "n": (60, 4),
    "at": (64, 8),
    "features": (72, 8),
}


def qcow2(**changes: int) -> bytearray:
    data = bytearray(content("x86_64-10-two-snapshots.qcow2"))
    for field, value in changes.items():
        offset, size = FIELDS[field]
        data[offset : offset + size] = value.to_bytes(size, "big")
    return data


@pytest.mark.parametrize(
    ("changes", "size", "why"),
    [
        ({"version": 1}, None, "qcow2 version 1"),
        ({"cluster_bits": 40}, None, "clusters of 2.40"),
        ({"crypt": 1}, None, "encrypted"),
        ({"features": 4}, None, "data in another file"),
        ({"n": 0}, None, "it has no snapshots"),
        ({"n": 1 << 20}, None, "claims 1048576 snapshots"),
        ({"at": 1 << 60}, None, "the file ends"),
        ({}, 1000, "the file ends"),
        ({}, 40, ""),
    ],
)
def test_a_damaged_qcow2(changes: dict[str, int], size: int | None, why: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(qcow2(**changes)[:size])
    with pytest.raises(PydumpError, match=why or None):
        pydump.open(tmp_path / "in", options={"qemu": {"snapshot": "snapA"}})


def test_options_of_other_containers_are_refused(sample: Sample) -> None:
    with pytest.raises(PlanError, match="is not a qcow2 file"):
        pydump.open(sample("x86_64-7.stream"), options={"qemu": {"snapshot": "a"}})


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b'"env.regs", "array_len": 16', b'"env.regs", "array_len": 17', "the state of cpu 0 is not known"),
        (b'"devices": [', b'"devices": {', "no registers are known: .* is not JSON"),
        (b"\x06\0\x01\x9f\x03{", b"\x00\0\x01\x9f\x03{", "does not describe its devices"),
    ],
)
def test_devices_that_cannot_be_read_are_warned_of(old: bytes, new: bytes, why: str, tmp_path: Path) -> None:
    whole = content("x86_64-7.stream")
    assert whole.count(old) >= 1
    (tmp_path / "in").write_bytes(whole.replace(old, new))
    with pydump.open(tmp_path / "in", arch="i386") as dump:
        assert re.search(why, " ".join(dump.image.warnings()))
        assert dump.cpus == ()
        # Whether firmware hides RAM there is one of the things that cannot be read.
        assert dump.image.unreadable() in (Ranges.empty(), Ranges.of([(0xC0000, 0x100000)]))


def test_many_runs_are_what_each_of_them_is(sample: Sample) -> None:
    """Whole pages, parts of pages, and runs over the border of two pieces."""
    runs = [(0, 4096), (8192, 12288), (12288, 12300), (0x9F000, 0xC1000), (0xC2000, 0xE1000), (0x3FF000, 0x400000)]
    runs += [(0xFFFC0000, 0xFFFC1000), (0xFFFFF000, 1 << 32)]
    for name in ("x86_64-7.stream", "x86_64-7-compress.stream", "x86_64-10-mappedram"):
        with pydump.open(sample(name)) as dump:
            buffer = bytearray(sum(end - start for start, end in runs))
            dump.image.read_runs(runs, memoryview(buffer))
            assert bytes(buffer) == b"".join(read(dump, start, end - start) for start, end in runs)


@pytest.mark.parametrize("name", ["paused-raw.save", "x86_64-10-mappedram"])
def test_what_a_cut_may_hide_is_unreadable_and_not_zero(name: str, tmp_path: Path) -> None:
    """Which firmware hides RAM below 1 MiB is in the state of a device, and so behind a cut."""
    whole = tmp_path / "whole"
    whole.write_bytes(lzma.decompress((DATA / f"{name}.xz").read_bytes()))
    size = whole.stat().st_size
    for part in (0.3, 0.6, 0.9, 0.97, 0.99):
        cut = tmp_path / "cut"
        cut.write_bytes(whole.read_bytes()[: int(size * part)])
        with pydump.open(whole) as complete, pydump.open(cut, arch="i386") as left:
            held = left.image.guest().memory.ranges().subtract(left.image.unreadable())
            assert left.image.unreadable()
            for start, end in held:
                assert left.read(start, end - start) == complete.read(start, end - start)


class TestQemuFormat(FormatTests):
    """The conformance kit, with a stream that QEMU wrote, and QEMU's own dump of the guest."""

    format = QemuFormat
    magics = (b"LibvirtQemudSave",)

    def example(self, tmp_path: Path) -> tuple[Path, dict[int, bytes]]:
        path, dump = tmp_path / "stream", tmp_path / "elf"
        path.write_bytes(content("s390x-7.stream"))
        dump.write_bytes(content("s390x-7.elf"))
        with pydump.open(dump) as theirs:
            return path, {block.paddr: theirs.read(block.paddr, block.size) for block in theirs.guest.memory}
