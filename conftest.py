"""What all tests share, those of plugins too."""

from __future__ import annotations

import gc
import lzma
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# What a shell starts in the background ignores Ctrl-C, and so do its children; tests send it to theirs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long examples take says something of what else this machine does.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

HERE = Path(__file__).parent / "tests"
DATA = HERE / "data"
#: Modules of slow tests that share nothing but what is kept on the disk: any process takes the next one of them.
APART = {
    f"tests/integration/test_{name}.py"
    for name in ("examples", "install", "pages_install", "live_access", "live_kills", "live_qemu", "live_versions")
}
#: Where slow tests are, the slowest first: what is left when there is nothing else to do should be short.
SLOW = ("integration", "docs", "conformance", "cli", "formats")
#: Bytes of which pytest would report every difference where ``CI`` is set, and work for ever.
LONG = 1 << 14


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with modules that must stay in one process, then those that any process can help with."""

    def rank(item: pytest.Item) -> tuple[int, bool]:
        inside = item.path.relative_to(HERE).parts[0] if item.path.is_relative_to(HERE) else ""
        return SLOW.index(inside) if inside in SLOW else len(SLOW), item.nodeid.partition("::")[0] in APART

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """Hide what was collected from the garbage collector, which would copy all of it in each forked worker."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a module in one process, for they share fixtures, except those that stand apart."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.partition("::")[0] in APART else str(super()._split_scope(nodeid))

    return Scheduling(config, log) if config.getvalue("dist") == "loadscope" else None


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """How ``==`` of much memory failed, in a line."""
    if op != "==" or not isinstance(left, bytes) or not isinstance(right, bytes) or len(left) + len(right) < LONG:
        return None
    where = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    return [
        f"{len(left)} bytes == {len(right)} bytes",
        f"they part at {where:#x}: {left[where : where + 16].hex()} and {right[where : where + 16].hex()}",
    ]


@pytest.fixture(scope="session")
def qemu(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Gives a file that QEMU wrote, unpacked: ``qemu("bare-s390x", "elf")``. Do not write to it."""
    directory = tmp_path_factory.mktemp("qemu")

    def unpack(guest: str, name: str) -> Path:
        path = directory / f"{guest}-{name}"
        if not path.exists():
            path.write_bytes(lzma.decompress((DATA / "qemu" / guest / f"{name}.xz").read_bytes()))
        return path

    return unpack
