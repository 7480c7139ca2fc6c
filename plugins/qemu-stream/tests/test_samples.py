"""What QEMU wrote: memory and registers equal to its own dump of the same guest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap
from pydump.model.note import Note
from pydump.registry import installed
from pydump.testing.readers import Contents, read_elf
from pydump_qemu_stream.blocks import BlockMemory, MappedBlock, StreamedBlock
from pydump_qemu_stream.registers import Processors, processors
from pydump_qemu_stream.stream import Stream
from pydump_qemu_stream.vmdesc import decode, read_description
from stream_samples import SAMPLES, backing, content, indexed

#: Where each machine has its RAM; on x86, ROM lies over a part of it.
RAM_AT = {"virt-10.0": 0x40000000, "virt": 0x80000000}
ROM = range(0xC0000, 0x100000)


def truth(name: str) -> Contents:
    return read_elf(content(name))


def cpus(stream: Stream, data: bytes) -> Processors:
    described = read_description(stream.description)
    states = [decode(described[d.name, d.instance], data[d.start : d.end]) for d in stream.devices if d.name == "cpu"]
    found = processors(states)
    assert found is not None
    return found


@pytest.mark.parametrize(("name", "elf", "start"), SAMPLES, ids=[name for name, _, _ in SAMPLES])
def test_registers_are_those_of_qemus_dump(name: str, elf: str, start: int) -> None:
    data, dump = content(name), truth(elf)
    stream, _, error = indexed(backing(data), start)
    assert error is None
    assert stream.ended
    found = cpus(stream, data)
    arch = installed().arch(found.arch)
    notes = arch.cpu_notes(found.cpus, found.byte_order)
    written = tuple(Note(name, type_, desc) for name, type_, desc in dump.notes if name != "VMCOREINFO")
    told = Guest(MemoryMap(()), arch=found.arch, byte_order=found.byte_order, notes=notes)
    # What QEMU writes wrongly is corrected in both.
    assert arch.complete(told).notes == arch.complete(replace(told, notes=written, byte_order=dump.byte_order)).notes  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "elf", "start"), SAMPLES, ids=[name for name, _, _ in SAMPLES])
def test_ram_is_that_of_qemus_dump(name: str, elf: str, start: int) -> None:
    file, dump = backing(content(name)), truth(elf)
    stream, index, _ = indexed(file, start)
    block = next(block for block in index.list if block.name in ("ram", "pc.ram"))
    memory: BlockMemory
    if block.mapped is None:
        memory = StreamedBlock(file, block, index.runs(block), complete=stream.ended)
    else:
        memory = MappedBlock(file, block)
    assert not memory.lost()
    base = RAM_AT.get(stream.machine, 0)
    at = 0
    for offset, end in memory.data_ranges(0, block.size):
        part = bytearray(end - offset)
        memory.read_into(offset, memoryview(part))
        for page in range(offset, end, 4096):
            assert any(part[page - offset : page - offset + 4096]) or not any(dump.read(base + page, 4096))
            if not (base == 0 and page in ROM and stream.machine.startswith("pc")):
                assert part[page - offset : page - offset + 4096] == dump.read(base + page, 4096), hex(page)
        # Nothing is left out that is not zero.
        for page in range(at, offset, 4096):
            if not (base == 0 and page in ROM and stream.machine.startswith("pc")) and page < 4 << 20:
                assert not any(dump.read(base + page, 4096)), hex(page)
        at = end


def test_a_range_may_begin_and_end_anywhere() -> None:
    file = backing(content("x86_64-7-xbzrle.stream"))
    _, index, _ = indexed(file)
    block = index.list[0]
    memory = StreamedBlock(file, block, index.runs(block), complete=True)
    whole = bytearray(block.size)
    memory.read_into(0, memoryview(whole))
    for start, size in (
        (0, 1),
        (4095, 2),
        (4096, 4096),
        (0x1234, 0x5678),
        (block.size - 5, 5),
        (block.size - 4097, 4097),
    ):
        part = bytearray(b"\xff" * size)
        memory.read_into(start, memoryview(part))
        assert part == whole[start : start + size]


def test_the_stream_says_what_the_machine_is() -> None:
    stream, index, _ = indexed(backing(content("q35-10-dimm-virtio-mem.stream")))
    assert stream.machine == "pc-q35-10.0"
    assert [block.name for block in index.list[:3]] == ["0000:00:01.0/v1", "d1", "pc.ram"]
    assert stream.devices[0].name == "0000:00:01.0/virtio-mem-device-early"
    shared, index, _ = indexed(backing(content("x86_64-7-ignoreshared.stream")))
    assert "x-ignore-shared" in shared.capabilities
    assert index.list[0].address == 0
