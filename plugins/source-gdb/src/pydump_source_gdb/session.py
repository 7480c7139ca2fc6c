"""A connection to a stub that has stopped its guest, and what is known of the guest."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from pydump.errors import PlanError, SourceError
from pydump.model.guest import Cpu, Guest
from pydump.model.memory import MemoryMap
from pydump_source_gdb.address import Address
from pydump_source_gdb.guard import LIMITS, Guard, Limits
from pydump_source_gdb.linear import HINT as L_HINT
from pydump_source_gdb.linear import Linear, find_linear, maps_all, stated_linear
from pydump_source_gdb.mapped import mapped_ram
from pydump_source_gdb.options import GdbOptions
from pydump_source_gdb.ram import HINT, device_tree_ram, e820_ram, flat_view_ram, stated_ram
from pydump_source_gdb.registers import KNOWN, Names, byte_order_of, descriptors, pydump_registers
from pydump_source_gdb.stub import Stub

_log = logging.getLogger("pydump.gdb")


class Session:
    """A guest that is paused from now until this is closed.

    Args:
        argument: The stub's address.
        options: How the guest is read, and left.
        limits: How long things may take.

    Attributes:
        guest: Its facts.
        stub: What reads its memory.
        warnings: What the user should know, a line each.

    Raises:
        PlanError: The options or the address make no sense.
        SourceError: The stub fails, or does not say enough.
    """

    def __init__(self, argument: str, options: GdbOptions, limits: Limits = LIMITS) -> None:
        stated = stated_ram(options.ram) if options.ram else None
        self._address = Address.of(argument)
        self._since = time.monotonic()
        self._until: float | None = None
        self.warnings: list[str] = []
        self._guard = Guard(self._address, options.after, limits)
        try:
            self._open(stated, options, limits)
        except BaseException:
            self.give_up()
            raise

    def _open(self, stated: MemoryMap | None, options: GdbOptions, limits: Limits) -> None:
        found = self._guard.found
        if found.ran is None and options.after == "auto":
            self.warnings.append(
                "the stub does not say whether the guest ran before: it runs afterwards; "
                "--gdb-after pause leaves it paused"
            )
        self.stub = Stub(self._guard, limits.answer)
        if self.stub.is_process:
            raise PlanError(
                "the stub belongs to a process, which has no guest memory",
                hint="take the stub of the virtual machine, or gcore for a core file of the process",
            )
        facts = self._facts()
        self._linear = Linear(0)
        if not self.stub.use_physical():
            self._linear = stated_linear(options.linear) if options.linear else self._find_linear(facts)
        memory = stated or flat_view_ram(self.stub.monitor("info mtree -f") or "") or self._find_ram(facts)
        if not memory:
            raise PlanError("the stub does not say where the guest has RAM", hint=HINT)
        self.guest = Guest(memory, arch=facts.arch, byte_order=facts.byte_order, cpus=facts.cpus)

    def _find_linear(self, facts: Guest) -> Linear:
        """The mapping of all RAM that one of the CPUs uses.

        Raises:
            PlanError: None is found.
        """
        for thread, cpu in zip(self._threads, facts.cpus, strict=True):
            self.stub.select(thread)
            found = find_linear(facts.arch, cpu.registers, self._read_virtual)
            if found is not None:
                return found
        raise PlanError(
            "the stub reads virtual memory alone, and the kernel's mapping of RAM is not found", hint=L_HINT
        )

    def _find_ram(self, facts: Guest) -> MemoryMap:
        """RAM by what firmware has left in memory, else by what the kernel maps."""
        if facts.arch in ("x86_64", "i386"):
            return e820_ram(self._read) or self._find_mapped(facts)
        return device_tree_ram(self._read, self._linear.paddr)

    def _find_mapped(self, facts: Guest) -> MemoryMap:
        """RAM by the page tables of a CPU that uses the kernel's mapping; empty where none does."""
        base = self._linear.to_vaddr(0)
        if facts.arch != "x86_64" or not base >> 63:  # below are programs, and firmware that maps devices like RAM
            return MemoryMap()
        for thread, cpu in zip(self._threads, facts.cpus, strict=True):
            self.stub.select(thread)
            if maps_all(base, cpu.registers, self._read_virtual):
                return mapped_ram(Linear(base), cpu.registers, self._read_virtual)
        return MemoryMap()

    def _read_virtual(self, vaddr: int, size: int) -> bytes:
        parts: list[bytes] = []
        self.stub.read_runs([(vaddr, vaddr + size)], lambda _, data: parts.append(data))
        return b"".join(parts)

    def _read(self, paddr: int, size: int) -> bytes:
        return self._read_virtual(self._linear.to_vaddr(paddr), size)

    def read_runs(
        self,
        runs: Sequence[tuple[int, int]],
        take: Callable[[int, bytes], None],
        lost: Callable[[int, int], None] | None = None,
    ) -> None:
        """Read memory by paddr; see :meth:`~pydump_source_gdb.stub.Stub.read_runs`."""
        linear = self._linear
        self.stub.read_runs(
            [(linear.to_vaddr(start), linear.to_vaddr(end)) for start, end in runs],
            lambda vaddr, data: take(linear.to_paddr(vaddr), data),
            None if lost is None else lambda vaddr, size: lost(linear.to_paddr(vaddr), size),
        )

    def _facts(self) -> Guest:
        """The registers, and what follows from them."""
        threads = self.stub.threads()
        described = {thread: self.stub.description(thread) for thread in threads}
        called = described[threads[0]].architecture
        names = KNOWN.get(called)
        if names is None:
            self._threads: list[bytes] = []
            self.warnings.append(f"the registers are left out: the stub calls the architecture {called or 'nothing'!r}")
            return Guest(MemoryMap(), n_cpus=len(threads))
        self._threads = [thread for thread in threads if described[thread].architecture == called]
        if others := [thread for thread in threads if thread not in self._threads]:
            other = described[others[0]].architecture
            which = f"{len(others)} of {len(threads)} CPUs"
            self.warnings.append(f"the registers of {which} are left out: they are {other!r}, not {called!r}")
        raw = [
            self.stub.registers(
                thread, described[thread], [one for one in described[thread].registers if one.name in names.names]
            )
            for thread in self._threads
        ]
        byte_order = byte_order_of(names, raw[0])
        both = [pydump_registers(names, registers, byte_order) for registers in raw]
        more = self._descriptors(names, len(raw))
        arch = both[0][0]
        cpus = tuple(Cpu(i, registers | more[i]) for i, (_, registers) in enumerate(both))
        return Guest(MemoryMap(), arch=arch, byte_order=byte_order, cpus=cpus)

    def _descriptors(self, names: Names, n_cpus: int) -> list[dict[str, int]]:
        text = self.stub.monitor("info registers -a") if names.arch in ("i386", "x86_64") else None
        return descriptors(text or "", n_cpus)

    @property
    def paused_seconds(self) -> float:
        """How long the guest was paused so far; 0 for one that was paused before."""
        if self._guard.found.ran is False:
            return 0.0
        return (self._until or time.monotonic()) - self._since

    def describe(self) -> tuple[tuple[str, str], ...]:
        """What ``pydump info`` shows."""
        found = self._guard.found
        before = {True: "running", False: found.state, None: "not known"}[found.ran]
        return (("state before", before),)

    def close(self) -> None:
        """Let the guest go.

        Raises:
            SourceError: It may be paused, and ran before.
        """
        if self._until is None:
            self._until = time.monotonic()
            self._guard.close()

    def give_up(self) -> None:
        """Let the guest go after an error, which is what is to be said."""
        try:
            self.close()
        except SourceError as error:
            self.warnings.append(error.message)
            _log.warning("%s", error)
