"""This host during one capture: where guest memory lies on it, and what keeps what is captured."""

from __future__ import annotations

from dataclasses import replace

from pydump.errors import SourceError
from pydump.interfaces.live import Narrow
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump_qemu_stream.captured import Captured, Readable
from pydump_qemu_stream.host import Host, Layout
from pydump_qemu_stream.process import Process
from pydump_source_qemu.described import can_snapshot, streams_registers
from pydump_source_qemu.monitor import CommandError, Monitor
from pydump_source_qemu.options import QemuOptions
from pydump_source_qemu.session import Session
from pydump_source_qemu.store import NoRoomError, Store, room_for, spare_memory


class ThisHost:
    """What it offers to a capture. What is opened here is closed with the session.

    Args:
        session: The session.
        options: How the user wants the guest to be captured.
        wanted: What of the guest's memory will be read.
        guest: Its facts, as they were when it was opened.
        narrow: Chooses what need not be captured, or None to capture everything.

    Attributes:
        wanted: What of the guest's memory will be read.
        guest: Its facts, as they were when it was opened.
        scratch: The directory for copies, or None for memory.
        store: The room for a copy, once :meth:`why_no_room` has found it.
    """

    def __init__(
        self, session: Session, options: QemuOptions, wanted: MemoryMap, guest: Guest, narrow: Narrow | None = None
    ) -> None:
        self.wanted = wanted
        self.scratch = options.scratch or None
        self.store: Store | None = None
        self._session = session
        self._access = options.access
        self._limit = None if options.memory_limit is None else options.memory_limit << 20
        self.guest = guest
        self._narrow = narrow
        self._host: Host | None = None

    def layout(self, memory: MemoryMap | None = None) -> Layout:
        """Where memory lies on this host: what is wanted, unless it is said.

        Raises:
            ImpossibleError: It cannot be reached in the way that the user wants.
        """
        if self._host is None:
            self._host = Host(Process.behind(self._session.monitor.socket), self._session.monitor.human)
            self._session.resources.callback(self._host.close)
        return self._host.locate(self.wanted if memory is None else memory, self._access)

    def may_leave_out(self, layout: Layout) -> Ranges:
        """What need not be captured, as it looks while the guest runs."""
        if self._narrow is None:
            return Ranges.empty()
        memory = MemoryMap.of((region.paddr, region.size) for region in layout.regions)
        pieces = [(region.paddr, region.end, region) for region in layout.regions]
        return self._narrow(Captured(replace(self.guest, memory=memory), pieces), paused=False)

    def left_out(self, guest: Guest, layout: Layout, fetched: Store) -> Ranges:
        """What of the memory on this host need not be captured, now that the guest is paused.

        Args:
            guest: Its facts.
            layout: Where memory lies.
            fetched: Holds the rest of it, which QEMU has sent.
        """
        if self._narrow is None:
            return Ranges.empty()
        pieces: list[tuple[int, int, Readable]] = [(region.paddr, region.end, region) for region in layout.regions]
        pieces += [(block.paddr, block.end, fetched) for block in layout.rest]
        here = Ranges.of((region.paddr, region.end) for region in layout.regions)
        return self._narrow(Captured(guest, pieces), paused=True).intersect(here)

    def must_not_dump(self) -> bool:
        """Whether a dump of QEMU's does harm or cannot be had, and a snapshot can be taken without one."""
        session = self._session
        avoided = session.dumps_harm or session.no_dump is not None
        return avoided and streams_registers(session.monitor) and can_snapshot(session.monitor)

    def shared(self) -> int:
        """Bytes of guest memory that are shared and not allocated in advance."""
        return shared_size(self._session.monitor)

    def spare_memory(self) -> int:
        """Bytes that this host can spare."""
        return spare_memory()

    def why_no_room(self, size: int) -> str | None:
        """Why there is no room for a copy of ``size`` bytes, or None where there is. It is taken then."""
        if why_not := self._over_limit(size) or room_for(size, self.scratch):
            return why_not
        try:
            self.store = self.room(self.wanted)
        except NoRoomError as error:
            return error.message
        return None

    def _over_limit(self, size: int) -> str | None:
        """Why the user does not want so much memory to be taken, or None where that is no concern."""
        if self._limit is None or self.scratch or size <= self._limit:
            return None
        return f"it takes {size >> 20} MiB, and --memory-limit is {self._limit >> 20}"

    def room(self, memory: MemoryMap) -> Store:
        """A store for a copy of memory.

        Raises:
            NoRoomError: There is none.
        """
        store = Store(memory.ranges(), self.scratch)
        self._session.resources.callback(store.close)
        return store

    def room_for_stream(self, memory: MemoryMap) -> Store:
        """A store for memory of which nobody knows yet how much is zero.

        Raises:
            SourceError: There is no room for all of it.
        """
        if why_not := self._over_limit(memory.size) or room_for(memory.size, self.scratch):
            raise SourceError(
                f"no room for guest memory, which comes as a stream: {why_not}",
                hint="--scratch DIR on a disk with room",
            )
        return self.room(memory)


def shared_size(monitor: Monitor) -> int:
    """Bytes of the guest's memory that are shared, of which the host allocates a page when somebody reads it.

    What QEMU has allocated at its start (prealloc) costs nothing. Source: qapi/machine.json, query-memdev.
    """
    try:
        backends = monitor.rows("query-memdev", size=int)
    except CommandError:
        return 0
    return sum(b["size"] for b in backends if b.get("share") and not b.get("prealloc"))
