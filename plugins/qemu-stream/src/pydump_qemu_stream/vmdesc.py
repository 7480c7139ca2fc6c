"""The state of devices, decoded by the description that QEMU puts behind a stream.

A device's state is its fields one after the other, then those of its subsections, each behind its name. All numbers are
big-endian, whatever a field's type says ("int32 le" means "less or equal").

Source: vmstate_save_state_v and vmsd_desc_field_start in migration/vmstate.c of QEMU 7.2 and 10.0.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from pydump_qemu_stream.reader import damaged
from pydump_qemu_stream.records import QEMU_VM_SUBSECTION

#: Elements of fields of one device. The most are the attributes of a disk of memory keys, which are one buffer.
MAX_ELEMENTS: Final = 1 << 18

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class State:
    """The state of a device, of a part of it, or of an element of an array of structs.

    Attributes:
        fields: Each field's elements by its name; of structs, their states. A name that comes again has what came last.
        subsections: Each subsection by its name.
    """

    fields: dict[str, list[bytes | State]] = field(default_factory=dict)
    subsections: dict[str, State] = field(default_factory=dict)

    def numbers(self, name: str) -> list[int]:
        """The elements of a field as unsigned numbers; none where there is no such field."""
        found = self.fields.get(name, [])
        return [int.from_bytes(element, "big") for element in found if isinstance(element, bytes)]

    def number(self, name: str) -> int:
        """The first element of a field; 0 where there is none."""
        return next(iter(self.numbers(name)), 0)

    def structs(self, name: str) -> list[State]:
        """The elements of a field of structs."""
        return [element for element in self.fields.get(name, []) if isinstance(element, State)]

    def size(self, name: str) -> int:
        """Bytes of each element of a field; 0 where there is none."""
        return next((len(element) for element in self.fields.get(name, []) if isinstance(element, bytes)), 0)

    def part(self, name: str) -> State:
        """A subsection; empty where there is none."""
        return self.subsections.get(name) or State()


def read_description(text: bytes) -> dict[tuple[str, int], dict[str, Any]]:
    """What each device's state is made of, by the device's name and instance.

    Raises:
        StreamError: The description is damaged.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(f"the description of its devices is not JSON: {error}") from None
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for device in _list(content, "devices"):
        name, instance = _of(device, "name", str), _of(device, "instance_id", int)
        found[name, instance] = device
    return found


def decode(description: dict[str, Any], body: bytes) -> State:
    """The state of a device.

    Args:
        description: Of this device.
        body: Its section's body.

    Raises:
        StreamError: The two do not fit each other.
    """
    decoder = _Decoder(body)
    try:
        state = decoder.state(description)
    except RecursionError:
        raise damaged("the description of a device has no end") from None
    if decoder.at != len(body):
        raise damaged(f"the state of a device has {len(body)} bytes, and its description {decoder.at}")
    return state


class _Decoder:
    def __init__(self, body: bytes) -> None:
        self._body = body
        self._left = MAX_ELEMENTS
        self.at = 0

    def state(self, description: dict[str, Any]) -> State:
        state = State()
        for described in _list(description, "fields"):
            name = _of(described, "name", str)
            elements = [self._element(described) for _ in range(self._count(described))]
            if "index" in described:  # of an array whose elements are described one by one
                state.fields.setdefault(name, []).extend(elements)
            else:
                state.fields[name] = elements
        for described in _list(description, "subsections"):
            name = _of(described, "vmsd_name", str)
            head = bytes([QEMU_VM_SUBSECTION, len(name)]) + name.encode() if len(name) < 256 else b""
            if not head or self._take(len(head)) != head:
                raise damaged(f"the subsection {name!r} is not where it is said to be")
            self._take(4)  # version
            state.subsections[name] = self.state(described)
        return state

    def _count(self, described: dict[str, Any]) -> int:
        count = described.get("array_len", 1)
        if not isinstance(count, int) or not 0 <= count <= self._left:
            raise damaged(f"a field of a device has {count!r} elements")
        self._left -= max(1, count)
        if self._left < 0:
            raise damaged("a device has too many fields")
        return count

    def _element(self, described: dict[str, Any]) -> bytes | State:
        struct = described.get("struct")
        return self.state(struct) if isinstance(struct, dict) else self._take(_of(described, "size", int))

    def _take(self, size: int) -> bytes:
        if not 0 <= size <= len(self._body) - self.at:
            raise damaged("the state of a device is shorter than its description")
        self.at += size
        return self._body[self.at - size : self.at]


def _list(described: Any, key: str) -> list[Any]:
    found = described.get(key, []) if isinstance(described, dict) else None
    if not isinstance(found, list):
        raise damaged(f"the description of its devices has no list of {key}")
    return found


def _of(described: Any, key: str, kind: type[_T]) -> _T:
    found = described.get(key) if isinstance(described, dict) else None
    if not isinstance(found, kind):
        raise damaged(f"the description of its devices has no {key}")
    return found
