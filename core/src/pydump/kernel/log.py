"""The kernel log of a guest, read from its ring buffer: what ``dmesg`` would print, without vmlinux.

Linux 5.10 and later keep descriptors and text in two rings (kernel/printk/printk_ringbuffer.h); kernels before that
keep records one behind another (kernel/printk/printk.c, struct printk_log, which was struct log before 3.11).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydump.errors import PlanError, ReadError
from pydump.kernel.memory import KernelMemory

if TYPE_CHECKING:
    import numpy as np

#: log2 of the most descriptors, and of the most bytes of text, that a ring is believed to have: log_buf_len=128M.
MAX_COUNT_BITS: Final = 24
MAX_SIZE_BITS: Final = 27
#: Bytes of the largest record buffer of kernels before 5.10, and of the least header of a record in it.
MAX_RECORDS: Final = 1 << 27
LEAST_RECORD: Final = 16
#: Descriptors that are looked at together.
LOOKED_AT_ONCE: Final = 1 << 16
#: What the state of a descriptor must be for its record to be whole: committed or finalized.
COMMITTED: Final = (1, 2)
#: A caller that is a CPU rather than a task. Source: printk_caller_id in kernel/printk/printk.c.
CALLER_CPU: Final = 0x80000000


@dataclass(frozen=True, slots=True)
class Record:
    """A record of the kernel log.

    Attributes:
        seq: Its number since boot.
        nanoseconds: When it was logged, by the kernel's clock.
        text: What was logged, without its end of line; it can have several lines.
        level: 0 (emergency) to 7 (debug), or None where the kernel does not say where that stands.
        caller: ``T123`` (a task) or ``C1`` (a CPU), or empty.
        fields: Key and value pairs such as SUBSYSTEM and DEVICE.
    """

    seq: int
    nanoseconds: int
    text: str
    level: int | None = None
    caller: str = ""
    fields: tuple[tuple[str, str], ...] = ()


def read_log(kernel: KernelMemory) -> Iterator[Record]:
    """The records that are whole, the oldest first.

    Raises:
        PlanError: VMCOREINFO does not lead to a log, or what is there does not add up.
        ReadError: The log is not in the dump.
    """
    if kernel.symbol("prb") is not None:
        return _ring(kernel)
    if kernel.symbol("log_buf") is not None:
        return _records(kernel)
    raise PlanError("VMCOREINFO does not say where the kernel log is", hint="it names neither prb nor log_buf")


def format_record(record: Record) -> str:
    """A record as makedumpfile and ``dmesg`` print it: further lines are indented below the text."""
    seconds, rest = divmod(record.nanoseconds, 1_000_000_000)
    head = f"[{seconds:5d}.{rest // 1000:06d}] "
    return head + record.text.replace("\n", "\n" + " " * len(head))


def _offset(kernel: KernelMemory, field: str) -> int:
    value = kernel.offset(field)
    if value is None:
        raise PlanError(f"VMCOREINFO lacks OFFSET({field})", hint="the kernel log cannot be read without it")
    return value


def _size(kernel: KernelMemory, name: str) -> int:
    value = kernel.info.size(name)
    if not value or value > 1 << 16:
        raise PlanError(f"VMCOREINFO lacks SIZE({name})", hint="the kernel log cannot be read without it")
    return value


@dataclass(frozen=True, slots=True)
class _Ring:
    """The printk ring buffer: descriptors, what is known of each record, and their texts."""

    descriptors: np.ndarray[Any, np.dtype[np.void]]
    infos: np.ndarray[Any, np.dtype[np.void]]
    text: bytes
    head: int
    tail: int
    word_bits: int

    @property
    def id_mask(self) -> int:
        """The bits of a descriptor's state that hold its number; the top two hold its state."""
        return (1 << self.word_bits - 2) - 1


def _ring(kernel: KernelMemory) -> Iterator[Record]:
    ring = _read_ring(kernel)
    count = len(ring.descriptors)
    n_records = (ring.head - ring.tail & ring.id_mask) + 1
    if n_records > count:
        raise PlanError("the kernel log does not add up", hint="its ring is damaged, or VMCOREINFO is of another boot")
    n_bytes = 0
    for number in _whole(ring, n_records):
        descriptor, info = ring.descriptors[number % count], ring.infos[number % count]
        at = _text_range(ring, int(descriptor["begin"]), int(descriptor["next"]), number, kernel)
        if at is None:
            continue
        text = ring.text[at[0] : min(at[1], at[0] + int(info["text_len"]))]
        n_bytes += len(text)
        if n_bytes > len(ring.text):  # records of a ring do not share their text
            raise PlanError("the kernel log does not add up", hint="more text is claimed than its ring holds")
        yield Record(
            int(info["seq"]),
            int(info["ts_nsec"]),
            _printable(text),
            _level(int(info["flags"]), kernel),
            _caller(int(info["caller_id"])),
            tuple((key, value) for key in ("subsystem", "device") if (value := _field(info, key))),
        )


def _whole(ring: _Ring, n_records: int) -> Iterator[int]:
    """The numbers of the records that are whole: a descriptor states its own number, and that it is committed."""
    import numpy as np

    mask, count = np.uint64(ring.id_mask), len(ring.descriptors)
    for first in range(0, n_records, LOOKED_AT_ONCE):
        some = np.arange(first, min(first + LOOKED_AT_ONCE, n_records), dtype=np.uint64)
        numbers = some + np.uint64(ring.tail & ring.id_mask) & mask
        states = ring.descriptors["state"][(numbers % np.uint64(count)).astype(np.int64)].astype(np.uint64)
        whole = (states & mask == numbers) & np.isin(states >> np.uint64(ring.word_bits - 2), COMMITTED)
        yield from numbers[whole].tolist()


def _read_ring(kernel: KernelMemory) -> _Ring:
    prb = kernel.symbol("prb")
    assert prb is not None
    base = kernel.read_word(prb)
    counter = kernel.offset("atomic_long_t.counter") or 0
    descriptors = base + _offset(kernel, "printk_ringbuffer.desc_ring")
    texts = base + _offset(kernel, "printk_ringbuffer.text_data_ring")

    def number(vaddr: int) -> int:
        return int.from_bytes(kernel.read(vaddr, 4), kernel.byte_order)

    count_bits = number(descriptors + _offset(kernel, "prb_desc_ring.count_bits"))
    size_bits = number(texts + _offset(kernel, "prb_data_ring.size_bits"))
    if count_bits > MAX_COUNT_BITS or size_bits > MAX_SIZE_BITS:
        raise PlanError("the kernel log does not add up", hint="its ring is damaged, or VMCOREINFO is of another boot")
    block = _offset(kernel, "prb_desc.text_blk_lpos")
    desc_type = kernel.struct(
        "prb_desc",
        _size(kernel, "prb_desc"),
        {
            "state": (kernel.word, _offset(kernel, "prb_desc.state_var") + counter),
            "begin": (kernel.word, block + _offset(kernel, "prb_data_blk_lpos.begin")),
            "next": (kernel.word, block + _offset(kernel, "prb_data_blk_lpos.next")),
        },
    )
    return _Ring(
        kernel.read_array(
            kernel.read_word(descriptors + _offset(kernel, "prb_desc_ring.descs")), desc_type, 1 << count_bits
        ),
        kernel.read_array(
            kernel.read_word(descriptors + _offset(kernel, "prb_desc_ring.infos")), _info_type(kernel), 1 << count_bits
        ),
        kernel.read(kernel.read_word(texts + _offset(kernel, "prb_data_ring.data")), 1 << size_bits),
        kernel.read_word(descriptors + _offset(kernel, "prb_desc_ring.head_id") + counter),
        kernel.read_word(descriptors + _offset(kernel, "prb_desc_ring.tail_id") + counter),
        8 * kernel.word_size,
    )


def _info_type(kernel: KernelMemory) -> np.dtype[np.void]:
    """Struct printk_info: level and facility stand between text_len and caller_id, in one byte each."""
    order = kernel.word[0]
    fields = {
        "seq": (f"{order}u8", _offset(kernel, "printk_info.seq")),
        "ts_nsec": (f"{order}u8", _offset(kernel, "printk_info.ts_nsec")),
        "text_len": (f"{order}u2", _offset(kernel, "printk_info.text_len")),
        # u16 text_len, u8 facility, u8 flags:5 and level:3, u32 caller_id, one behind another.
        "flags": ("u1", _offset(kernel, "printk_info.text_len") + 3),
        "caller_id": (f"{order}u4", _offset(kernel, "printk_info.caller_id")),
    }
    device = kernel.offset("printk_info.dev_info")
    for name in ("subsystem", "device"):
        at, length = kernel.offset(f"dev_printk_info.{name}"), kernel.info.length(f"printk_info_{name}")
        if length and None not in (device, at):
            fields[name] = (f"S{length}", (device or 0) + (at or 0))
    return kernel.struct("printk_info", _size(kernel, "printk_info"), fields)


def _text_range(ring: _Ring, begin: int, following: int, number: int, kernel: KernelMemory) -> tuple[int, int] | None:
    """``(start, end)`` in the ring of a record's text, empty where it has none, None where newer text took its place.

    A block begins with the number of its descriptor. One that does not fit before the end of the ring lies at its
    start, and only that number is left at the end.
    """
    if begin & 1 and following & 1:
        return 0, 0
    size, word = len(ring.text), kernel.word_size
    start, end = begin % size, following % size
    if begin // size != following // size and end:
        start = 0
    if end == 0:
        end = size
    if (
        end - start < word
        or int.from_bytes(ring.text[start : start + word], kernel.byte_order) & ring.id_mask != number
    ):
        return None
    return start + word, end


def _records(kernel: KernelMemory) -> Iterator[Record]:
    """The record buffer of kernels before 5.10, which begins anew where a record of length 0 stands."""
    kind = "printk_log" if kernel.info.size("printk_log") else "log"
    head = _size(kernel, kind)
    if head < LEAST_RECORD:
        raise PlanError(f"VMCOREINFO says that struct {kind} has {head} bytes", hint="it is damaged")
    at_time, at_len, at_text = (_offset(kernel, f"{kind}.{name}") for name in ("ts_nsec", "len", "text_len"))
    dict_offset = kernel.offset(f"{kind}.dict_len")
    buffer_at, length_at = kernel.symbol("log_buf"), kernel.symbol("log_buf_len")
    first_at, next_at = kernel.symbol("log_first_idx"), kernel.symbol("log_next_idx")
    if buffer_at is None or length_at is None or first_at is None or next_at is None:
        raise PlanError("VMCOREINFO does not say where the kernel log begins and ends", hint="this kernel is not known")

    def number(data: bytes, at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], kernel.byte_order)

    length, first, end = (number(kernel.read(at, 4), 0, 4) for at in (length_at, first_at, next_at))
    if not 0 < length <= MAX_RECORDS or max(first, end) > length:
        raise PlanError("the kernel log does not add up", hint="it is damaged, or VMCOREINFO is of another boot")
    data = kernel.read(kernel.read_word(buffer_at), length)
    at, wrapped = first, False
    seq = 0
    while at != end or (seq == 0 and not wrapped and first == end and number(data, at + at_len, 2)):
        record_length = number(data, at + at_len, 2) if at + head <= length else 0
        if record_length == 0:
            if wrapped:
                return
            at, wrapped = 0, True
            continue
        if record_length < head or at + record_length > length:
            raise ReadError(kernel.read_word(buffer_at) + at, record_length, "the record is damaged", space="vaddr")
        text_length = min(number(data, at + at_text, 2), record_length - head)
        text = data[at + head : at + head + text_length]
        dict_length = number(data, at + dict_offset, 2) if dict_offset is not None else 0
        dictionary = data[at + head + text_length : at + min(head + text_length + dict_length, record_length)]
        # u16 len, text_len, dict_len; u8 facility; u8 flags:5 and level:3.
        level = _level(data[at + at_len + 7], kernel) if head >= at_len + 8 else None
        fields = (part.partition(b"=") for part in dictionary.split(b"\0") if part)
        yield Record(
            seq,
            number(data, at + at_time, 8),
            _printable(text),
            level,
            "",
            tuple((_printable(key), _printable(value)) for key, _, value in fields),
        )
        seq += 1
        at += record_length


def _level(flags: int, kernel: KernelMemory) -> int:
    """The level out of a byte of flags:5 and level:3, which the byte order places."""
    return flags >> 5 if kernel.byte_order == "little" else flags & 7


def _printable(text: bytes) -> str:
    """Text as it is shown: bytes that are neither printable ASCII nor white space are escaped."""
    return "".join(chr(c) if 32 <= c < 127 or c in b"\t\n" else f"\\x{c:02x}" for c in text)


def _caller(number: int) -> str:
    if number == 0xFFFFFFFF:
        return ""
    return f"C{number & ~CALLER_CPU}" if number & CALLER_CPU else f"T{number}"


def _field(info: Any, name: str) -> str:
    return _printable(bytes(info[name]).partition(b"\0")[0]) if name in (info.dtype.names or ()) else ""
