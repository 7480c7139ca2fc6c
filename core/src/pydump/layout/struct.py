"""Every on-disk struct is declared once, as a class whose annotations carry the field's C type.

::

    class PageDesc(Layout):
        '''One stored page. Source: makedumpfile diskdump_mod.h, struct page_desc.'''

        offset: I64 = 0
        size: U32 = 0
        flags: U32 = 0
        page_flags: U64 = 0

Fields follow each other without padding; where C pads, the table says so with a ``Pad`` field. The byte order is an
argument of every call. The same declaration gives a NumPy dtype for tables of millions.
"""

from __future__ import annotations

import struct
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, dataclass_transform, get_args, get_type_hints

if TYPE_CHECKING:
    import numpy as np

    from pydump.model.guest import ByteOrder

U8 = Annotated[int, "B"]  #: A field of 8 bits.
U16 = Annotated[int, "H"]  #: A field of 16 bits.
U32 = Annotated[int, "I"]  #: A field of 32 bits.
U64 = Annotated[int, "Q"]  #: A field of 64 bits.
I32 = Annotated[int, "i"]  #: A field of 32 bits, signed.
I64 = Annotated[int, "q"]  #: A field of 64 bits, signed.

_PREFIX = {"little": "<", "big": ">"}


# Shorter values are padded with zeros. A module that needs another length declares its own.
Bytes1 = Annotated[bytes, "1s"]  #: A field of 1 byte.
Bytes2 = Annotated[bytes, "2s"]  #: A field of 2 bytes.
Bytes4 = Annotated[bytes, "4s"]  #: A field of 4 bytes.
Bytes7 = Annotated[bytes, "7s"]  #: A field of 7 bytes.
Bytes8 = Annotated[bytes, "8s"]  #: A field of 8 bytes.
Bytes16 = Annotated[bytes, "16s"]  #: A field of 16 bytes.


def prefix(byte_order: ByteOrder) -> str:
    """The ``struct`` and NumPy prefix of a byte order."""
    return _PREFIX[byte_order]


@dataclass_transform(frozen_default=True)
class _Declared(type):
    """Makes a tuple of what is declared. A dataclass would be compiled, and every start would wait for it."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> _Declared:
        names = tuple(namespace.get("__annotations__", ()))
        defaults = tuple(namespace[field] for field in names)
        namespace |= {field: property(itemgetter(i)) for i, field in enumerate(names)}
        return super().__new__(mcs, name, bases, namespace | {"__slots__": (), "_names": names, "_defaults": defaults})


class Layout(tuple[Any, ...], metaclass=_Declared):
    """Base of every declared struct: its values in their order, and by their names. Each has a default."""

    if TYPE_CHECKING:
        _names: ClassVar[tuple[str, ...]]
        _defaults: ClassVar[tuple[Any, ...]]

    def __new__(cls, *values: Any, **named: Any) -> Self:
        names = cls._names
        rest = [named.pop(names[i], cls._defaults[i]) for i in range(len(values), len(names))]
        if named or len(values) > len(names):
            raise TypeError(f"{cls.__name__} has the fields {', '.join(names)}")
        return super().__new__(cls, (*values, *rest))

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in zip(self._names, self, strict=True))
        return f"{type(self).__name__}({values})"

    def replace(self, **changes: Any) -> Self:
        """The struct with other values in some fields."""
        return type(self)(**dict(zip(self._names, self, strict=True)) | changes)

    def pack(self, byte_order: ByteOrder) -> bytes:
        """The struct's bytes.

        Raises:
            ValueError: A value does not fit its field.
        """
        for (name, code), value in zip(_codes(type(self)), self, strict=True):
            # ``struct`` would cut it short without a word.
            if code.endswith("s") and len(value) > int(code[:-1]):
                raise ValueError(f"{type(self).__name__}.{name} has {code[:-1]} bytes, not {len(value)}")
        try:
            return _codec(type(self), byte_order).pack(*self)
        except struct.error as error:
            raise ValueError(f"{type(self).__name__}: {error}: {self}") from None

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview, byte_order: ByteOrder, offset: int = 0) -> Self:
        """The struct that begins at ``offset`` of ``data``.

        Raises:
            ValueError: ``data`` is too short.
        """
        codec = _codec(cls, byte_order)
        if offset < 0 or len(data) - offset < codec.size:
            raise ValueError(f"{cls.__name__} needs {codec.size} bytes, {max(0, len(data) - offset)} are there")
        return cls(*codec.unpack_from(data, offset))

    @classmethod
    def nbytes(cls) -> int:
        """Size of the struct in bytes."""
        return _codec(cls, "little").size

    @classmethod
    def offset_of(cls, name: str) -> int:
        """Offset of a field in bytes."""
        at = 0
        for field_name, code in _codes(cls):
            if field_name == name:
                return at
            at += struct.calcsize("<" + code)
        raise KeyError(name)

    @classmethod
    def dtype(cls, byte_order: ByteOrder) -> np.dtype[Any]:
        """The struct as a NumPy record."""
        import numpy as np

        def one(code: str) -> str:
            return f"S{code[:-1]}" if code.endswith("s") else f"{prefix(byte_order)}{_NUMPY[code]}"

        return np.dtype([(name, one(code)) for name, code in _codes(cls)])

    @classmethod
    def describe(cls) -> tuple[tuple[int, int, str], ...]:
        """``(offset, size, name)`` of each field, for documentation and messages."""
        rows = []
        at = 0
        for name, code in _codes(cls):
            size = struct.calcsize("<" + code)
            rows.append((at, size, name))
            at += size
        return tuple(rows)


_NUMPY = {"B": "u1", "H": "u2", "I": "u4", "Q": "u8", "i": "i4", "q": "i8"}


# What a class's annotations say, worked out once, when it is first used.
_fields: dict[type[Layout], tuple[tuple[str, str], ...]] = {}
_codecs: dict[tuple[type[Layout], ByteOrder], struct.Struct] = {}


def _codes(cls: type[Layout]) -> tuple[tuple[str, str], ...]:
    """``(name, struct code)`` of each field."""
    if cls not in _fields:
        hints = get_type_hints(cls, include_extras=True)
        _fields[cls] = tuple((name, get_args(hints[name])[1]) for name in cls._names)
    return _fields[cls]


def _codec(cls: type[Layout], byte_order: ByteOrder) -> struct.Struct:
    key = cls, byte_order
    if key not in _codecs:
        _codecs[key] = struct.Struct(prefix(byte_order) + "".join(code for _, code in _codes(cls)))
    return _codecs[key]
