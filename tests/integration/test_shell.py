"""drgn through pydump: tasks and stacks of a guest in any container, on the architectures that drgn knows."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from judges import drgn_tasks, require_drgn
from lab.boot import Guest

Pydump = Callable[..., subprocess.CompletedProcess[str]]
SCRIPT = """
import json
from drgn.helpers.linux import cpu_curr, for_each_online_cpu, for_each_task
tasks = list(for_each_task(prog))
stacks = []
for task in [*tasks, *(cpu_curr(prog, cpu) for cpu in for_each_online_cpu(prog))]:
    try:
        stacks.append(len(prog.stack_trace(task)))
    except (LookupError, ValueError, NotImplementedError) as error:
        stacks.append(str(error))
print(json.dumps({"tasks": len(tasks), "stacks": stacks, "arch": vmcore.guest.arch}))
"""


@pytest.mark.parametrize(
    ("arch", "form"),
    [
        ("x86_64", ("--format", "lime")),
        ("x86_64", ("-d", "31")),
        ("aarch64", ("--format", "lime")),
        ("s390x", ("--format", "elf")),
        ("ppc64", ("--compression", "zstd")),
        ("riscv64", ("--format", "lime")),
    ],
)
def test_drgn_lists_all_tasks_and_their_stacks(
    arch: str, form: tuple[str, ...], guest: Callable[[str], Guest], pydump: Pydump, tmp_path: Path
) -> None:
    require_drgn()
    script, out = tmp_path / "script.py", tmp_path / "dump"
    script.write_text(SCRIPT)
    pydump("dump", "-q", guest(arch).elf, out, *form)
    named = ("--arch", arch) if form[-1] == "lime" else ()
    said = json.loads(pydump("shell", out, script, *named, "--vmlinux", guest(arch).vmlinux).stdout)
    truth = drgn_tasks(guest(arch).elf, guest(arch).vmlinux) if arch == "x86_64" else None
    if truth is not None:
        assert not isinstance(truth, str), truth
        assert said["tasks"] == truth.tasks
    assert said["arch"].startswith(arch)
    assert said["tasks"] > 40
    unwound = sum(isinstance(depth, int) and depth > 0 for depth in said["stacks"])
    if arch == "riscv64":  # drgn cannot unwind there, on any dump
        assert "Linux kernel stack unwinding is not supported for RISC-V 64 architecture" in said["stacks"]
    elif form[-1] == "lime":  # LiME has no registers: the tasks that were running cannot be unwound
        assert unwound >= said["tasks"] - 2
    else:
        assert unwound == len(said["stacks"])
