"""A domain of libvirt: a view of it while it runs, and its capture."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final

from pydump.errors import PlanError, PydumpError, ReadError, SourceError
from pydump.interfaces.image import MemoryImage
from pydump.interfaces.live import Capture, LiveGuest, Narrow
from pydump.model.guest import Guest, Utsname
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.progress import Progress, ProgressCallback
from pydump_qemu_stream.domain import read_domain
from pydump_qemu_stream.flat_view import seen
from pydump_qemu_stream.image import Given, QemuImage
from pydump_qemu_stream.place import OTHER
from pydump_source_libvirt.domain import Domain
from pydump_source_libvirt.dump import Fifo, give_up, unname
from pydump_source_libvirt.options import LibvirtOptions
from pydump_source_libvirt.stored import DumpImage, StoredStream
from pydump_source_libvirt.undo import set_back_after

#: Bytes of a region of guest memory; one with more is not believed.
MAX_REGION: Final = 1 << 47
#: Seconds that the recorder may take to undo what it did before this process goes on; it stays at it.
GRACE: Final = 10

_log = logging.getLogger("pydump.libvirt")


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
        spans = Ranges.of(
            (part.paddr, part.paddr + part.size)
            for name, parts in found.items()
            if not OTHER.match(name)
            for part in parts
        )
        memory = MemoryMap.of((start, end - start) for start, end in spans)
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
    """What another process has captured and keeps in a file without a name. See :mod:`.recorder`."""

    holds = False
    consistent = True

    def __init__(
        self,
        domain: Domain,
        options: LibvirtOptions,
        view: LibvirtView,
        progress: ProgressCallback | None,
        resources: contextlib.ExitStack,
    ) -> None:
        self._domain = domain
        self._options = options
        self._view = view
        self._size = view.guest().memory.ranges().size
        self._progress = progress
        self._resources = resources
        self._paused: float | None = None

    @property
    def paused_seconds(self) -> float | None:
        return self._paused

    def __enter__(self) -> MemoryImage:
        self._domain.refuse_busy()
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
        self._paused = answer["paused"]
        warnings = tuple(filter(None, (answer["warning"],)))
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

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The domain was let run when the capture ended."""

    def _record(self, file: BinaryIO) -> dict[str, Any]:
        """Have the recorder fill the file.

        Returns:
            Its last line.

        Raises:
            PydumpError: It failed.
        """
        with contextlib.ExitStack() as stack:
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            fifo = Fifo()
            stack.callback(unname, fifo.path)
            pipe = os.pipe()
            try:
                process = _started(self._domain, self._options.pause, theirs, pipe, fifo, file)
            except OSError as error:
                os.close(pipe[0])
                os.close(fifo.fd)
                raise SourceError(f"cannot start the process that captures the domain: {error.strerror}") from None
            finally:
                theirs.close()
                os.close(pipe[1])
            try:
                answer = self._listen(ours)
            finally:
                self._await(process, ours, pipe[0], fifo.fd)
        if "error" in answer:
            cls: type[PydumpError] = PlanError if answer["code"] == PlanError.exit_code else SourceError
            raise cls(answer["error"], hint=answer["hint"])
        if "done" not in answer:
            raise SourceError("the process that captures the domain has ended before it was done")
        return answer

    def _listen(self, recorder: socket.socket) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        with recorder.makefile("rb") as lines:
            for line in lines:
                answer = json.loads(line)
                if "caution" in answer:
                    _log.warning("%s", answer["caution"])
                if self._progress is not None and "kept" in answer:
                    self._progress(Progress("capture", min(answer["kept"], self._size), self._size))
        return answer

    def _await(self, process: subprocess.Popen[bytes], recorder: socket.socket, pipe: int, fifo: int) -> None:
        """Let the recorder end, and do what it has left to do if somebody has killed it."""
        with contextlib.suppress(OSError):
            recorder.shutdown(socket.SHUT_RDWR)
        try:
            killed = process.wait(GRACE) < 0
        except subprocess.TimeoutExpired:
            process.returncode, killed = 0, False  # it goes on by itself; say nothing of it at exit
        if killed:
            give_up(self._domain, fifo)
            set_back_after(self._domain, pipe)
        else:
            os.close(fifo)
            os.close(pipe)


def _started(
    domain: Domain, way: str, parent: socket.socket, pipe: tuple[int, int], fifo: Fifo, file: BinaryIO
) -> subprocess.Popen[bytes]:
    """The recorder, which no signal ends that can be blocked, nor the end of the terminal."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "recorder.py", way, domain.uri, domain.uuid, str(os.getpid()),
             *map(str, pipe), fifo.path, str(fifo.fd)],
            cwd=str(Path(__file__).parent),
            stdin=parent.fileno(),
            stdout=file.fileno(),
            stderr=subprocess.DEVNULL,
            pass_fds=(*pipe, fifo.fd),
            start_new_session=True,
        )  # fmt: skip
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
