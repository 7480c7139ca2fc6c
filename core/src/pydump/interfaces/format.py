"""The format role: what a file of guest memory looks like, read and written. A format does no I/O of its own.

A :class:`Format` is a light class that can be asked for its name and whether a file is its own. It has a reader half, a
writer half, or both; each is loaded when it is wanted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from pydump.errors import UnsupportedError
from pydump.interfaces.backing import Backing
from pydump.options import NoOptions

if TYPE_CHECKING:
    from pydump.interfaces.arch import Arch
    from pydump.interfaces.compressor import Compressor
    from pydump.interfaces.image import MemoryImage
    from pydump.interfaces.writer import Writer
    from pydump.model.plan import Plan


class KernelFile(ABC):
    """The file that a kernel was linked to, with its symbols.

    Attributes:
        path: What to call it in messages.
        build_id: Its build id in hexadecimal, or None.
    """

    path: str
    build_id: str | None

    @abstractmethod
    def symbol(self, name: str) -> int | None:
        """The address that a symbol was linked to, or None where there is no such symbol."""


#: What a format may hold beside memory, for :attr:`Format.carries`: the notes as they are; VMCOREINFO; which pages were
#: left out on purpose; the registers of each CPU (whoever carries the notes carries these as well); the byte order,
#: class and architecture of the guest; and the header of a Windows crash dump, which is a note as well.
CARRIES: Final = frozenset({"notes", "vmcoreinfo", "excluded", "registers", "arch", "windows"})


class Opened(NamedTuple):
    """What the reader half of a format gets.

    Attributes:
        files: The file, or the parts of a split dump in any order. The reader closes them.
        sibling: Opens the file of a given name in the directory of the first file, or returns None where there is
            none. The reader closes it.
        decompressors: Gives the compressor of a name, or raises UnknownPluginError saying what to install.
        unpacked: What lies compressed in one of the files from an offset on, unpacked as a file of its own. The reader
            closes it.
        options: An instance of the format's ``ReaderOptions``.
    """

    files: Sequence[Backing]
    sibling: Callable[[str], Backing | None]
    decompressors: Decompressors
    unpacked: Callable[[Backing, int], Backing]
    options: Any


class Format:
    """A kind of file that holds guest memory.

    The reader half is :meth:`detect` and :meth:`open`, the writer half is :meth:`writer`. A class implements one of the
    two or both.
    """

    #: Its registry name, as in ``--format kdump``.
    name: ClassVar[str]
    #: Other names people know, each with the settings it implies, such as ``{"kdump-lzo": {"compression": "lzo"}}``.
    aliases: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    #: What it holds beside memory. Users are warned of what it does not, and the kit does not ask for it.
    carries: ClassVar[frozenset[str]] = CARRIES
    #: Names of the compressors it has a number for, best known first; empty if it does not compress.
    compressors: ClassVar[tuple[str, ...]] = ()
    #: The compression that every file of it has, done by a library of its own.
    own_compression: ClassVar[str] = "none"
    #: Whether one dump can be split over several files, of which :attr:`Opened.files` may have any number.
    splits: ClassVar[bool] = False
    #: Does it hold whole pages only?
    whole_pages: ClassVar[bool] = False
    #: Whether QEMU writes it, so that ``compat`` can ask for QEMU's bytes.
    qemu_writes: ClassVar[bool] = False
    #: Does it store all zero pages as one? Then leaving them out saves nothing.
    shares_zero_pages: ClassVar[bool] = False
    #: A run that a filter left out is stored all the same if it has fewer bytes than this, since each costs a header.
    least_hole: ClassVar[int] = 0
    #: Has it a place for the virtual addresses of memory?
    maps_vaddrs: ClassVar[bool] = False
    #: The options of the writer half, as in :mod:`pydump.options`.
    Options: ClassVar[type] = NoOptions
    #: The options of the reader half. Every command that reads shows them as ``--<owner>-<field>``.
    ReaderOptions: ClassVar[type] = NoOptions

    @classmethod
    def reads(cls) -> bool:
        """Whether it has a reader half."""
        return _implements(cls, "open")

    @classmethod
    def writes(cls) -> bool:
        """Whether it has a writer half."""
        return _implements(cls, "writer")

    @classmethod
    def detects(cls) -> bool:
        """Whether it knows its own files."""
        return _implements(cls, "detect")

    @classmethod
    def detect(cls, head: bytes) -> bool:
        """Whether a file that begins with ``head`` (up to 4096 bytes) is of this format."""
        return False

    @classmethod
    def open(cls, opened: Opened) -> MemoryImage:
        """Open a file that :meth:`detect` knows.

        Args:
            opened: The file or files, and what goes with them.

        Raises:
            FormatError: The file's structure is damaged.
            UnsupportedError: The format has no reader half.
        """
        raise UnsupportedError(f"format {cls.name} can be written but not read")

    @classmethod
    def kernel(cls, file: Backing) -> KernelFile:
        """The kernel that a file of this format holds, as vmlinux does. All that is needed of the file is read at once.

        Raises:
            FormatError: The file is damaged, or has no symbols.
            UnsupportedError: No file of this format holds a kernel.
        """
        raise UnsupportedError(f"{file.path} is {cls.name}, which holds no kernel's symbols", hint="name a vmlinux")

    @classmethod
    def machine_name(cls, machine: int) -> str | None:
        """What the format calls an ELF e_machine, or None."""
        return None

    @classmethod
    def note_type_name(cls, name: str, type_: int) -> str | None:
        """What the format calls the type of a note of that name, or None."""
        return None

    @classmethod
    def complete(cls, plan: Plan, image: MemoryImage, arch: type[Arch]) -> Plan:
        """Complete a plan with what the format's headers need of guest memory, before :meth:`writer` gets it.

        Args:
            plan: The plan, complete but for this.
            image: Guest memory.
            arch: The guest's architecture.

        Raises:
            PlanError: What the headers need cannot be had.
        """
        return plan

    @classmethod
    def writer(cls, plan: Plan, compressor: Compressor | None) -> Writer:
        """A writer for ``plan``.

        Raises:
            UnsupportedError: The format cannot express what the plan holds, or has no writer half.
        """
        raise UnsupportedError(f"format {cls.name} can be read but not written")

    @classmethod
    def split(cls, plan: Plan, n: int) -> Sequence[Plan]:
        """The plans of the ``n`` files over which a dump is split, each with its :attr:`~pydump.model.plan.Plan.part`.

        Raises:
            UnsupportedError: The format has no place for a part of a dump.
            PlanError: There is too little memory for so many files.
        """
        raise UnsupportedError(f"format {cls.name} cannot be split over several files", hint="leave --split out")


def _implements(cls: type[Format], method: str) -> bool:
    """Whether a format has a method of its own instead of the one that refuses."""
    return getattr(cls, method).__func__ is not getattr(Format, method).__func__


class Decompressors(ABC):
    """How a reader gets a compressor by name."""

    @abstractmethod
    def __call__(self, name: str) -> Compressor:
        """The compressor ``name``.

        Raises:
            UnknownPluginError: It is not installed; the hint says what to install.
        """
