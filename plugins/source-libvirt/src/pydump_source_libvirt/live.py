"""A domain of libvirt: a view of it while it runs, and its capture."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from types import TracebackType
from typing import Any, BinaryIO, Final

from pydump.errors import PlanError, PydumpError, ReadError, SourceError
from pydump.interfaces.image import MemoryImage
from pydump.interfaces.live import Capture, LiveGuest, Narrow
from pydump.model.guest import Guest, Utsname
from pydump.model.memory import MemoryMap
from pydump.model.progress import Progress, ProgressCallback
from pydump.signals import Unstopped
from pydump_qemu_stream.domain import read_domain
from pydump_qemu_stream.elf_head import Head
from pydump_qemu_stream.flat_view import memory_of, seen
from pydump_qemu_stream.image import Given, QemuImage
from pydump_qemu_stream.place import OTHER
from pydump_source_libvirt.domain import Domain
from pydump_source_libvirt.in_place import in_place
from pydump_source_libvirt.options import LibvirtOptions
from pydump_source_libvirt.recording import Recording
from pydump_source_libvirt.stored import DumpImage, StoredStream, read_stored

#: Bytes of a region of guest memory; one with more is not believed.
MAX_REGION: Final = 1 << 47


class LibvirtGuest(LiveGuest):
    """A domain that runs.

    Args:
        domain: It is closed with the guest.
        options: How it is captured.

    Raises:
        SourceError: It is shut off, or libvirt does not answer.
    """

    def __init__(self, domain: Domain, options: LibvirtOptions) -> None:
        self._domain = domain
        self._options = options
        self._resources = contextlib.ExitStack()
        domain.refuse_shut_off()
        self._view = LibvirtView(domain)

    def view(self) -> LibvirtView:
        return self._view

    def capture(
        self, wanted: MemoryMap, progress: ProgressCallback | None = None, narrow: Narrow | None = None
    ) -> LibvirtCapture:
        return LibvirtCapture(self._domain, self._options, self._view, progress, self._resources)

    def close(self) -> None:
        self._resources.close()
        self._domain.close()


class LibvirtView(MemoryImage):
    """What libvirt and QEMU's monitor say of the guest. Memory can be read once it is captured."""

    def __init__(self, domain: Domain) -> None:
        said, _ = read_domain(domain.xml())
        found = seen(domain.human("info mtree -f"), MAX_REGION)
        memory = memory_of({name: parts for name, parts in found.items() if not OTHER.match(name)})
        self._guest = Guest(
            memory, utsname=Utsname(machine=said.arch), n_cpus=len(domain.rows("query-cpus-fast")) or None
        )
        self._described = (("domain", domain.name), ("libvirt", domain.uri), ("QEMU machine", said.machine))

    def guest(self) -> Guest:
        return self._guest

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        raise ReadError(paddr, len(buffer), "memory of a domain is read once it is captured: dump it first")

    def describe(self) -> tuple[tuple[str, str], ...]:
        return self._described


class LibvirtCapture(Capture):
    """What another process has captured and keeps in a file without a name, or memory of a domain that it pauses."""

    def __init__(
        self,
        domain: Domain,
        options: LibvirtOptions,
        view: LibvirtView,
        progress: ProgressCallback | None,
        resources: contextlib.ExitStack,
    ) -> None:
        self._domain = domain
        self._pause = options.pause
        self._view = view
        self._size = view.guest().memory.ranges().size
        self._progress = progress
        self._resources = resources
        self._warnings: list[str] = []
        self._recording: Recording | None = None
        self._unstopped = Unstopped()
        self._paused: float | None = None
        self._consistent = True

    @property
    def holds(self) -> bool:
        return self._recording is not None

    @property
    def paused_seconds(self) -> float | None:
        return self._paused

    @property
    def consistent(self) -> bool:
        return self._consistent

    def __enter__(self) -> MemoryImage:
        self._domain.refuse_busy()
        try:
            if self._pause not in ("full", "none"):
                return self._stored()
            memory = self._view.guest().memory
            return in_place(self._domain, memory, self._facts, self._resources, self._warnings)
        except BaseException:
            self._end()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the domain run, if it is held; else it was let run when the capture ended."""
        if self._recording is None:
            return
        try:
            answer = self._recording.let_go()
        except PydumpError:
            if kind is None:
                raise
        else:
            self._note(answer)
        finally:
            self._end()

    def _note(self, answer: dict[str, Any]) -> None:
        """What the recorder says at its end."""
        self._paused = answer["paused"]
        if answer["warning"]:
            self._warnings.append(answer["warning"])
        self._consistent = answer["consistent"]

    def _record(self, file: BinaryIO) -> dict[str, Any]:
        """Have the recorder fill a file. It goes on only if it holds the domain.

        Returns:
            What it says then.

        Raises:
            PydumpError: It failed.
        """
        self._recording = Recording(self._domain, self._pause, file)
        answer = self._recording.answer(self._tell)
        if "held" not in answer:
            self._end()
            self._note(answer)
        return answer

    def _tell(self, kept: int) -> None:
        if self._progress is not None:
            self._progress(Progress("capture", min(kept, self._size), self._size))

    def _end(self) -> None:
        """The recorder ends, and has let the domain run then."""
        recording, self._recording = self._recording, None
        if recording is not None:
            recording.close()
        self._unstopped.let_go()

    def _facts(self) -> Head:
        """The domain's facts; with ``full`` it is paused from then on."""
        self._unstopped.hold()
        with tempfile.TemporaryFile() as file:
            self._record(file)
            with contextlib.closing(StoredStream(file)) as stream:
                return read_stored(stream)

    def _stored(self) -> MemoryImage:
        """Memory that the recorder has kept."""
        directory = tempfile.gettempdir()
        if shutil.disk_usage(directory).free < self._size:
            raise SourceError(
                f"the memory of the domain may take {self._size >> 20} MiB, and {directory} has less room",
                hint="set TMPDIR to a directory with more room",
            )
        said, _ = read_domain(self._domain.xml())
        with tempfile.TemporaryFile(dir=directory) as file:
            answer = self._record(file)
            stream = StoredStream(file)
        warnings = tuple(self._warnings)
        try:
            image: MemoryImage
            if answer["done"] == "copy":
                image = DumpImage(stream, self._view.describe(), warnings)
            else:
                image = QemuImage(stream, 0, said, ("captured through libvirt", warnings), Given())
        except PlanError as error:
            stream.close()
            raise PlanError(error.message, hint="--libvirt-pause copy takes a dump, which says where RAM is") from None
        except BaseException:
            stream.close()
            raise
        self._resources.callback(image.close)
        return image
