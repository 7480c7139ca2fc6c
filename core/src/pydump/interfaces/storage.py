"""The storage role: where dumps are kept. One class for each URL scheme, or name before a colon, such as ``s3``.

A storage opens what a URL names, for reading as a :class:`~pydump.interfaces.backing.Backing`, for writing as a
:class:`~pydump.interfaces.sink.Sink`. It can do one of the two, or both.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydump.errors import UnsupportedError
from pydump.interfaces.backing import Backing
from pydump.interfaces.sink import Placement, Sink
from pydump.options import NoOptions


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a run that was killed left behind where nobody sees it.

    Attributes:
        url: What was to appear.
        began: When it was begun, in seconds since 1970.
        size: Bytes that are stored.
        remove: Removes it; raises SinkError where it cannot.
    """

    url: str
    began: float
    size: int
    remove: Callable[[], None]


class Storage(ABC):
    """A place for dumps. Nobody makes an instance: its methods open URLs.

    A storage implements ``reader``, ``writer`` or both. URLs are passed as the user wrote them, with the scheme.
    """

    #: What stands before the colon, such as ``s3`` of ``s3://bucket/vmcore``.
    name: ClassVar[str]
    Options: ClassVar[type] = NoOptions
    #: Whether what is written is gone when the process ends; the command line then refuses to write there.
    transient: ClassVar[bool] = False

    @classmethod
    def reader(cls, url: str, options: Any = None) -> Backing:
        """Open ``url`` for reading.

        Args:
            url: What the user wrote.
            options: An instance of ``Options``, or None for the defaults.

        Raises:
            SourceError: It cannot be read; or PlanError, where the URL itself is wrong.
        """
        raise UnsupportedError(f"{url} cannot be read: {cls.name} is for writing only")

    @classmethod
    def writer(cls, url: str, options: Any = None, *, force: bool = False, sync: bool = True) -> Sink:
        """Open ``url`` for writing. Nothing appears there before the sink is committed.

        Args:
            url: What the user wrote.
            options: An instance of ``Options``, or None for the defaults.
            force: Replace what is there.
            sync: At :meth:`~pydump.interfaces.sink.Sink.commit`, wait until the data is stored for good, as fsync does.
                Without it a power cut may lose the output.

        Raises:
            PlanError: Something is there and ``force`` is not set, or the URL itself is wrong.
            SinkError: It cannot be written.
        """
        raise UnsupportedError(f"{url} cannot be written: {cls.name} is for reading only")

    @classmethod
    def resumable(
        cls,
        url: str,
        made_of: Mapping[str, str],
        options: Any = None,
        *,
        resume: bool,
        force: bool = False,
        sync: bool = True,
    ) -> Sink:
        """Open ``url`` for an output that a later run can continue if this one is killed.

        A storage overrides it where what a killed run has written stays, and can be used by another.

        Args:
            url: What the user wrote.
            made_of: What decides the bytes of the output: what the user calls each, such as "the input", and a text
                that is another when it has changed.
            options: As for ``writer``.
            resume: Continue what a killed run left, if there is something; and leave what is stored if this run fails.
            force: As for ``writer``.
            sync: As for ``writer``.

        Raises:
            PlanError: As ``writer`` does; or what a killed run left was made of something else.
            SinkError: It cannot be written.
        """
        raise UnsupportedError(f"{url}: {cls.name} cannot continue an interrupted dump", hint="leave --resume out")

    @classmethod
    def check(cls, url: str, options: Any = None, *, force: bool = False) -> Placement:
        """Refuse what ``writer`` would refuse, and leave no trace: a dry run asks.

        Override it where opening alone has an effect: a pipe's reader sees it opened and closed.

        Returns:
            The placement of the sink.

        Raises:
            PydumpError: As ``writer`` does.
        """
        sink = cls.writer(url, options, force=force)
        sink.abort()
        return sink.placement

    @classmethod
    def leftovers(cls, url: str, options: Any = None) -> Sequence[Leftover]:
        """What runs that were killed left behind at ``url`` and below, the oldest first. By default nothing is.

        Raises:
            SourceError: The storage does not say.
        """
        return ()

    @classmethod
    def matching(cls, pattern: str) -> Sequence[str]:
        """The URLs that a pattern names, in order: ``*`` stands for any characters but ``/``.

        Raises:
            SourceError: The storage does not say; or UnsupportedError, where it never does.
        """
        raise UnsupportedError(f"{cls.name} does not list what is there", hint="name each file in a list of jobs")

    @classmethod
    def state(cls, url: str) -> str | None:
        """What differs once the content of ``url`` has changed; None where nothing is there, or it is not known."""
        return None

    @classmethod
    def reads(cls) -> bool:
        """Whether it can be read from."""
        return cls._implements("reader")

    @classmethod
    def writes(cls) -> bool:
        """Whether it can be written to."""
        return cls._implements("writer")

    @classmethod
    def resumes(cls) -> bool:
        """Whether an interrupted dump can be continued."""
        return cls._implements("resumable")

    @classmethod
    def leaves(cls) -> bool:
        """Whether a run that is killed can leave something behind."""
        return cls._implements("leftovers")

    @classmethod
    def _implements(cls, method: str) -> bool:
        return next(base for base in cls.__mro__ if method in vars(base)) is not Storage
