"""The filter role: sorts the pages of a guest into classes that a dump can leave out.

A filter knows one kind of operating system. It reads the guest's own tables, says which pages are of which class, and
checks that what it found can be true: a page that is left out by mistake is lost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pydump.model.memory import Ranges
from pydump.options import NoOptions

if TYPE_CHECKING:
    from pydump.interfaces.arch import Arch
    from pydump.interfaces.image import MemoryImage
    from pydump.model.check import Check
    from pydump.model.guest import Guest


@dataclass(frozen=True, slots=True)
class Classified:
    """The pages of a guest by class.

    Attributes:
        classes: Class name to its pages, as ranges of paddr. A page can be in several.
        always: Names of classes that are left out whatever was asked for, such as poisoned pages.
        keep: Memory that must never be left out; a class that contains some of it was sorted by wrong rules.
        checks: What was checked; one that failed means that the rules do not fit this guest.
        warnings: What the user should know, a line each.
    """

    classes: Mapping[str, Ranges]
    always: frozenset[str] = frozenset()
    keep: Ranges = field(default_factory=Ranges.empty)
    checks: tuple[Check, ...] = ()
    warnings: tuple[str, ...] = ()


class Filter(ABC):
    """Knows the pages of one kind of operating system."""

    #: Its registry name.
    name: ClassVar[str]
    #: What it can leave out. Maps the name of a class, as ``--exclude`` takes it, to what such pages are.
    classes: ClassVar[Mapping[str, str]]
    Options: ClassVar[type] = NoOptions

    @classmethod
    @abstractmethod
    def knows(cls, guest: Guest) -> bool:
        """Can this guest's operating system be the filter's? Asked before memory is read."""

    @classmethod
    @abstractmethod
    def classify(cls, source: MemoryImage, guest: Guest, arch: type[Arch], options: Any = None) -> Classified:
        """Sort the guest's pages.

        Args:
            source: Guest memory; what it does not hold cannot be looked at, and its pages are in no class.
            guest: The completed facts.
            arch: The guest's architecture.
            options: An instance of ``Options``, or None for the defaults.

        Raises:
            PlanError: The guest does not say where its tables are; the hint says what is missing.
        """
