"""drgn through pydump: tasks and stacks of a guest in any container, on the architectures that drgn knows."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from judges import drgn_tasks, require_drgn
from lab.boot import Guest, continued

Pydump = Callable[..., subprocess.CompletedProcess[str]]
SCRIPT = """
import json
from drgn import FaultError
from drgn.helpers.linux import cpu_curr, for_each_online_cpu, for_each_task
tasks = list(for_each_task(prog))
stacks = []
for task in [*tasks, *(cpu_curr(prog, cpu) for cpu in for_each_online_cpu(prog))]:
    try:
        stacks.append(len(prog.stack_trace(task)))
    except (FaultError, LookupError, ValueError, NotImplementedError) as error:
        stacks.append(str(error))
print(json.dumps({"tasks": len(tasks), "stacks": stacks, "arch": vmcore.guest.arch}))
"""


ARCHES = ("x86_64", "aarch64", "s390x", "ppc64", "riscv64")


@pytest.fixture(scope="module")
def tasks(guest: Callable[[str], Guest]) -> int:
    """The tasks that drgn finds by itself in QEMU's dump of the x86_64 guest."""
    truth = drgn_tasks(guest("x86_64").elf, guest("x86_64").vmlinux)
    assert not isinstance(truth, str), truth
    return truth.tasks


@contextlib.contextmanager
def written(linux: Guest, directory: Path, pydump: Pydump, *form: str) -> Iterator[str]:
    """A dump that pydump writes."""
    pydump("dump", "-q", linux.elf, directory / "dump", *form)
    yield str(directory / "dump")


@contextlib.contextmanager
def live(linux: Guest, directory: Path) -> Iterator[str]:
    """The guest, in QEMU."""
    with continued(linux, directory, "-qmp", f"unix:{directory}/pydump.sock,server=on,wait=off") as (qmp, _):
        yield f"qmp:{directory}/pydump.sock"
        assert qmp.command("query-status")["status"] == "paused"


@pytest.mark.parametrize(
    ("arch", "form"), [("x86_64", "-d 31"), *itertools.product(ARCHES, ["kdump", "lime", "stream", "live"])]
)
def test_drgn_lists_all_tasks_and_their_stacks(
    arch: str, form: str, guest: Callable[[str], Guest], pydump: Pydump, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    require_drgn()
    linux = guest(arch)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    source: contextlib.AbstractContextManager[str] = {
        "kdump": lambda: contextlib.nullcontext(str(linux.kdump)),
        "-d 31": lambda: written(linux, tmp_path, pydump, "-d", "31", "--compression", "zstd"),
        "lime": lambda: written(linux, tmp_path, pydump, "--format", "lime"),
        "stream": lambda: contextlib.nullcontext(str(linux.stream)),
        "live": lambda: live(linux, tmp_path),
    }[form]()
    named = ("--arch", {"ppc64": "ppc64le"}.get(arch, arch)) if form == "lime" else ()
    with source as name:
        said = json.loads(pydump("shell", name, script, *named, "--vmlinux", linux.vmlinux).stdout)
    if arch == "x86_64":
        assert said["tasks"] == request.getfixturevalue("tasks")
    assert said["arch"].startswith(arch)
    assert said["tasks"] > 40
    unwound = sum(isinstance(depth, int) and depth > 0 for depth in said["stacks"])
    if arch == "riscv64":  # drgn cannot unwind there, on any dump
        assert "Linux kernel stack unwinding is not supported for RISC-V 64 architecture" in said["stacks"]
    elif form == "lime":  # LiME has no registers: the tasks that were running cannot be unwound
        assert unwound >= said["tasks"] - 2
    else:
        assert unwound == len(said["stacks"])
