"""``pydump shell`` runs a script or a prompt with the dump at hand, with drgn and without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Qemu = Callable[[str, str], Path]
Run = Callable[..., Any]


def test_a_script_has_the_dump(qemu: Qemu, run: Run, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("print(vmcore.guest.arch, pydump.__name__, __name__)")
    done = run("shell", qemu("bare-s390x", "elf"), "script.py")
    assert (done.code, done.out) == (0, "s390x pydump __main__\n")
    assert "pydump: without drgn: " in done.err  # it has no VMCOREINFO


def test_an_error_of_a_script_is_shown_as_python_does(qemu: Qemu, run: Run, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("\n1 / 0\n")
    done = run("-q", "shell", qemu("bare-s390x", "elf"), "script.py")
    assert done.code == 1
    assert done.err.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert 'File "script.py", line 2' in done.err
    assert "shell.py" not in done.err


def test_a_prompt_has_the_dump(qemu: Qemu, run: Run) -> None:
    done = run("shell", qemu("bare-s390x", "elf"), stdin=b"print(vmcore.guest.n_cpus)\n")
    assert done.code == 0
    assert "a guest of s390x" in done.err
    assert done.out.replace(">>> ", "").strip() == "2"


def test_what_cannot_be_done_is_said(qemu: Qemu, refuse: Callable[..., str]) -> None:
    where = qemu("bare-s390x", "elf")
    assert "VMCOREINFO" in refuse(2, "shell", where, "--vmlinux", where)
    assert "cannot open nowhere.py" in refuse(1, "-q", "shell", where, "nowhere.py")
