"""The format role: what a vmcore looks like, read and written. A format does no I/O of its own.

A :class:`Format` is a light class that can be asked for its name and whether a file is its own; its reader and its
writer are loaded when one is wanted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydump.errors import UnsupportedError
from pydump.interfaces.backing import Backing
from pydump.options import NoOptions

if TYPE_CHECKING:
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


class Format(ABC):
    """A kind of vmcore."""

    #: Its registry name: ``--format kdump``.
    name: ClassVar[str]
    #: Other names people know, each with the settings it implies: ``{"kdump-lzo": {"compression": "lzo"}}``.
    aliases: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    #: Names of the compressors it has a number for, best known first; empty if it does not compress.
    compressors: ClassVar[tuple[str, ...]] = ()
    #: Can one dump be split over several files?
    splits: ClassVar[bool] = False
    #: Does it hold whole pages only?
    whole_pages: ClassVar[bool] = False
    #: Does it store all zero pages as one? Then leaving them out saves nothing.
    shares_zero_pages: ClassVar[bool] = False
    #: A run that a filter left out is stored all the same if it is shorter than this many bytes: each costs a header.
    least_hole: ClassVar[int] = 0
    #: Has it a place for the virtual addresses of memory?
    maps_vaddrs: ClassVar[bool] = False
    Options: ClassVar[type] = NoOptions

    @classmethod
    @abstractmethod
    def detect(cls, head: bytes) -> bool:
        """Is a file that begins with ``head`` (up to 4096 bytes) of this format?"""

    @classmethod
    @abstractmethod
    def open(cls, files: Sequence[Backing], compressor: Decompressors) -> MemoryImage:
        """A reader.

        Args:
            files: The file, or the parts of a split dump in any order.
            compressor: Gives the compressor of a name, or raises UnknownPluginError saying what to install.

        Raises:
            FormatError: The file's structure is damaged.
        """

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
    @abstractmethod
    def writer(cls, plan: Plan, compressor: Compressor | None) -> Writer:
        """A writer for ``plan``.

        Raises:
            UnsupportedError: The format cannot express what the plan holds.
        """


class Decompressors(ABC):
    """How a reader gets a compressor by name."""

    @abstractmethod
    def __call__(self, name: str) -> Compressor:
        """The compressor ``name``.

        Raises:
            UnknownPluginError: It is not installed; the hint says what to install.
        """
