"""The kernel log of a guest, read from its ring buffer: what ``dmesg`` would print, without vmlinux.

Linux 5.10 and later keep descriptors and text in two rings (kernel/printk/printk_ringbuffer.h); kernels before that
keep records one behind another (kernel/printk/printk.c, struct printk_log, which was struct log before 3.11).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydump.errors import PlanError, ReadError
from pydump.kernel.memory import KernelMemory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
class Ring:
    """The printk ring buffer: descriptors, what is known of each record, and their texts.

    Attributes:
        kernel: The kernel's memory.
        count: Descriptors, a power of two.
        size: Bytes of texts, a power of two.
        head: vaddr of the newest descriptor's number.
        tail: vaddr of the oldest descriptor's number.
        descriptors: vaddr and type of the descriptors.
        infos: vaddr and type of what is known of each record.
        texts: vaddr of the texts.
    """

    kernel: KernelMemory
    count: int
    size: int
    head: int
    tail: int
    descriptors: tuple[int, np.dtype[np.void]]
    infos: tuple[int, np.dtype[np.void]]
    texts: int

    @classmethod
    def of(cls, kernel: KernelMemory) -> Ring:
        """Find it.

        Raises:
            PlanError: VMCOREINFO does not lead to it, or what is there does not add up.
            ReadError: It is not in the dump.
        """
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
            raise _not_added_up()
        return cls(
            kernel,
            1 << count_bits,
            1 << size_bits,
            descriptors + _offset(kernel, "prb_desc_ring.head_id") + counter,
            descriptors + _offset(kernel, "prb_desc_ring.tail_id") + counter,
            (kernel.read_word(descriptors + _offset(kernel, "prb_desc_ring.descs")), _descriptor_type(kernel, counter)),
            (kernel.read_word(descriptors + _offset(kernel, "prb_desc_ring.infos")), _info_type(kernel)),
            kernel.read_word(texts + _offset(kernel, "prb_data_ring.data")),
        )

    @property
    def id_mask(self) -> int:
        """The bits of a descriptor's state that hold its number; the top two hold its state."""
        return (1 << 8 * self.kernel.word_size - 2) - 1

    def bounds(self) -> tuple[int, int]:
        """The number of the oldest descriptor, and how many there are up to the newest.

        Raises:
            PlanError: They do not add up.
        """
        tail, head = (self.kernel.read_word(at) & self.id_mask for at in (self.tail, self.head))
        n_records = (head - tail & self.id_mask) + 1
        if n_records > self.count:
            raise _not_added_up()
        return tail, n_records

    def rows(self, first: int, n: int) -> tuple[NDArray[np.uint64], NDArray[np.void], NDArray[np.void]]:
        """Numbers, descriptors and infos of ``n`` records from the number ``first`` on."""
        import numpy as np

        numbers = np.arange(n, dtype=np.uint64) + np.uint64(first) & np.uint64(self.id_mask)
        return numbers, self._rows(*self.descriptors, first, n), self._rows(*self.infos, first, n)

    def _rows(self, vaddr: int, dtype: np.dtype[np.void], first: int, n: int) -> NDArray[np.void]:
        import numpy as np

        at = first % self.count
        before = min(n, self.count - at)
        parts = [self.kernel.read_array(vaddr + at * dtype.itemsize, dtype, before)]
        if n > before:
            parts.append(self.kernel.read_array(vaddr, dtype, n - before))
        return np.concatenate(parts)

    def states(self, numbers: NDArray[np.uint64], descriptors: NDArray[np.void]) -> NDArray[np.int64]:
        """The state of each descriptor, or -1 where another record has taken its place."""
        import numpy as np

        states = descriptors["state"].astype(np.uint64)
        found = (states >> np.uint64(8 * self.kernel.word_size - 2)).astype(np.int64)
        return np.where(states & np.uint64(self.id_mask) == numbers, found, -1)

    def text(self, descriptor: np.void, number: int, read: Callable[[int, int], bytes]) -> bytes | None:
        """The text of a record, or None where newer text took its place.

        A block begins with the number of its descriptor. One that does not fit before the end of the ring lies at its
        start, and only that number is left at the end.

        Args:
            descriptor: The record's.
            number: The record's.
            read: Gives the bytes of the texts from ``start`` to ``end``.
        """
        begin, following = int(descriptor["begin"]), int(descriptor["next"])
        if begin & 1 and following & 1:  # it has none
            return b""
        word = self.kernel.word_size
        start, end = begin % self.size, following % self.size or self.size
        if begin // self.size != following // self.size and following % self.size:
            start = 0
        if end - start < word:
            return None
        block = read(start, end)
        stated = int.from_bytes(block[:word], self.kernel.byte_order) & self.id_mask
        return block[word:] if stated == number else None

    def record(self, info: np.void, text: bytes) -> Record:
        """A record, of what is known of it and its text."""
        return Record(
            int(info["seq"]),
            int(info["ts_nsec"]),
            _printable(text[: int(info["text_len"])]),
            _level(int(info["flags"]), self.kernel),
            _caller(int(info["caller_id"])),
            tuple((key, value) for key in ("subsystem", "device") if (value := _field(info, key))),
        )


def _not_added_up(hint: str = "its ring is damaged, or VMCOREINFO is of another boot") -> PlanError:
    return PlanError("the kernel log does not add up", hint=hint)


def _ring(kernel: KernelMemory) -> Iterator[Record]:
    import numpy as np

    ring = Ring.of(kernel)
    tail, n_records = ring.bounds()
    texts = kernel.read(ring.texts, ring.size)
    n_bytes = 0
    for first in range(0, n_records, LOOKED_AT_ONCE):
        numbers, descriptors, infos = ring.rows(tail + first, min(LOOKED_AT_ONCE, n_records - first))
        for i in np.flatnonzero(np.isin(ring.states(numbers, descriptors), COMMITTED)).tolist():
            text = ring.text(descriptors[i], int(numbers[i]), lambda start, end: texts[start:end])
            if text is None:
                continue
            n_bytes += min(len(text), int(infos["text_len"][i]))
            if n_bytes > ring.size:  # records of a ring do not share their text
                raise _not_added_up("more text is claimed than its ring holds")
            yield ring.record(infos[i], text)


def _descriptor_type(kernel: KernelMemory, counter: int) -> np.dtype[np.void]:
    block = _offset(kernel, "prb_desc.text_blk_lpos")
    return kernel.struct(
        "prb_desc",
        _size(kernel, "prb_desc"),
        {
            "state": (kernel.word, _offset(kernel, "prb_desc.state_var") + counter),
            "begin": (kernel.word, block + _offset(kernel, "prb_data_blk_lpos.begin")),
            "next": (kernel.word, block + _offset(kernel, "prb_data_blk_lpos.next")),
        },
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
