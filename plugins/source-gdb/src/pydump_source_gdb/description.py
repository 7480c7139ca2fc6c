"""The target description of a stub: which registers there are, their numbers and sizes.

Source: GDB manual, appendix "Target Descriptions".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

from pydump.errors import SourceError

#: Documents that a description is made of, and bytes of all of them. QEMU's largest one has 40 KB.
MAX_DOCUMENTS: Final = 64
MAX_SIZE: Final = 4 << 20
#: Registers of a CPU, the number of one, and bits: more are not believed.
MAX_REGISTERS: Final = 1 << 14
MAX_BITS: Final = 1 << 14
ROOT: Final = "target.xml"


@dataclass(frozen=True, slots=True)
class Register:
    """A register.

    Attributes:
        name: Its name.
        number: Its place in the protocol.
        bits: Its width, a multiple of 8 in the protocol.
    """

    name: str
    number: int
    bits: int

    @property
    def size(self) -> int:
        """Bytes in the protocol."""
        return -(-self.bits // 8)


@dataclass
class Description:
    """What a stub says of its CPUs.

    Attributes:
        architecture: As gdb names it: ``i386:x86-64``; empty where it is not said.
        registers: By ascending number.
    """

    architecture: str = ""
    registers: list[Register] = field(default_factory=list)

    def find(self, name: str) -> Register | None:
        """The first register of a name."""
        return next((register for register in self.registers if register.name == name), None)


def read_description(fetch: Callable[[str], bytes]) -> Description:
    """Read the description and what it includes.

    Args:
        fetch: Gives a document by its name.

    Raises:
        SourceError: It is damaged, or larger than any.
    """
    reader = _Reader(fetch)
    reader.read(ROOT)
    reader.found.registers.sort(key=lambda register: register.number)
    return reader.found


class _Reader:
    def __init__(self, fetch: Callable[[str], bytes]) -> None:
        self.found = Description()
        self._fetch = fetch
        self._seen: set[str] = set()
        self._size = 0
        self._numbers: set[int] = set()
        self._next = 0
        self._text: list[str] | None = None

    def read(self, name: str) -> None:
        """Read one document, and those that it includes where it does."""
        if name in self._seen or len(self._seen) == MAX_DOCUMENTS:
            raise _damaged(f"{name} is included twice, or there are more than {MAX_DOCUMENTS} documents")
        self._seen.add(name)
        data = self._fetch(name)
        self._size += len(data)
        if self._size > MAX_SIZE:
            raise _damaged(f"it has more than {MAX_SIZE >> 20} MiB")
        parser = expat.ParserCreate()
        parser.EntityDeclHandler = _refused  # an entity can stand for any amount of text
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        try:
            parser.Parse(data, True)
        except expat.ExpatError as error:
            raise _damaged(f"{name}: {error}") from None
        except (ValueError, LookupError) as error:  # an encoding that is not known
            raise _damaged(f"{name}: {error}") from None

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "architecture":
            self._text = []
        elif name.rpartition(":")[2] == "include" and "href" in attributes:
            self.read(attributes["href"])
        elif name == "reg":
            self._register(attributes)

    def _register(self, attributes: dict[str, str]) -> None:
        try:
            number = int(attributes.get("regnum", self._next))
            register = Register(attributes["name"], number, int(attributes["bitsize"]))
        except (KeyError, ValueError):
            raise _damaged(f"a register without a size or a name: {str(attributes)[:80]}") from None
        if not 0 <= number < MAX_REGISTERS or not 0 < register.bits <= MAX_BITS:
            raise _damaged(f"register {register.name[:40]} has number {number} and {register.bits} bits")
        if number in self._numbers:
            raise _damaged(f"two registers have the number {number}")
        self._numbers.add(number)
        self.found.registers.append(register)
        self._next = number + 1

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def _end(self, name: str) -> None:
        if name == "architecture" and self._text is not None:
            self.found.architecture = "".join(self._text).strip()
            self._text = None


def _refused(*_: object) -> None:
    raise _damaged("it declares an entity")


def _damaged(why: str) -> SourceError:
    return SourceError(f"the stub's target description is damaged: {why}")
