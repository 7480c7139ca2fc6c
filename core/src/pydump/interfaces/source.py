"""The source role: opens a guest that is not in the file of a format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from pydump.interfaces.image import MemoryImage
from pydump.interfaces.live import LiveGuest
from pydump.options import NoOptions


class Source(ABC):
    """Opens a name: ``raw:ram.bin@0``. It is never instantiated."""

    #: What stands before the colon, such as ``raw``.
    name: ClassVar[str]

    #: A dataclass of options, as in :mod:`pydump.options`.
    Options: ClassVar[type] = NoOptions

    #: Whether the options matter to commands that read the guest without capturing it, such as ``pydump dmesg``.
    options_for_reading: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def open(cls, argument: str, options: Any = None) -> MemoryImage | LiveGuest:
        """Open what stands after the colon.

        Args:
            argument: The text after the colon.
            options: An instance of ``Options``, or None for the defaults.

        Raises:
            SourceError: It cannot be opened.
        """
