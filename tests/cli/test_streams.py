"""Standard streams that are closed, full, or known by another name; and Ctrl-C at any time."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Qemu = Callable[[str, str], Path]
Run = Callable[..., Any]


@pytest.fixture
def elf(qemu: Qemu) -> Path:
    """QEMU's ELF dump of a small guest."""
    return qemu("nano-x86_64", "elf")


@pytest.fixture
def shell(pydump_command: list[str], tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[bytes]]:
    """Runs a shell command in which ``pydump`` is pydump."""

    def command(text: str) -> subprocess.CompletedProcess[bytes]:
        python, *rest = pydump_command
        script = f'pydump() {{ "{python}" {" ".join(rest)} "$@"; }}\n{text}'
        return subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, timeout=60)

    return command


@pytest.mark.parametrize(
    ("name", "into"),
    [
        ("-", "> out"),
        ("fd:01", "| cat > out"),
        ("fd:3", "3>&1 | cat > out"),
        ("fd:3", "> out 3>&1"),
        ("/dev/stdout", "| cat > out"),
        ("/dev/stdout", ">> out"),
        ("/dev/fd/1", "> out"),
        ("link", "| cat > out"),
        ("link", "> out"),
    ],
)
def test_a_dump_to_standard_output_is_that_and_nothing_else(
    name: str, into: str, elf: Path, run: Run, shell: Callable[..., Any], tmp_path: Path
) -> None:
    run("dump", elf, "wanted", "--format", "elf")
    os.symlink("/proc/self/fd/1", tmp_path / "link")
    force = "--force" if name == "link" else ""  # never for a name of the system's, which a mistake would replace
    done = shell(f"pydump dump {elf} {name} --format elf {force} {into}")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "wanted").read_bytes()
    assert b"wrote         " in done.stderr
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("output", ["-", "fd:1", "/dev/stdout"])
def test_a_dump_to_a_closed_standard_output(output: str, elf: Path, shell: Callable[..., Any]) -> None:
    done = shell(f"pydump dump {elf} {output} >&-")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert done.stderr.startswith(b"pydump: error: standard output is closed;")


@pytest.mark.parametrize("command", ["info {}", "read {} 0 16", "read {} 0 64K", "map {}", "plugins", "--version"])
def test_what_cannot_be_printed_is_no_success(command: str, elf: Path, shell: Callable[..., Any]) -> None:
    done = shell(f"pydump {command.format(elf)} >&-")
    assert (done.returncode, done.stderr) == (1, b"pydump: error: cannot write to standard output: it is closed\n")
    done = shell(f"pydump {command.format(elf)} >/dev/full")
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert done.stderr == b"pydump: error: cannot write to standard output: No space left on device\n"


@pytest.mark.parametrize(
    ("where", "says"),
    [
        (">/dev/full", b"pydump: warning: cannot print the report: No space left on device\n"),
        (">/dev/full 2>/dev/full", b""),
        (">&-", b""),
        (">&- 2>&-", b""),
        ("<&- >&- 2>&-", b""),
        ("| true; exit ${PIPESTATUS[0]}", b""),
    ],
)
@pytest.mark.parametrize("option", ["", "--detach"])
def test_a_dump_that_is_there_is_a_success(
    option: str,
    where: str,
    says: bytes,
    elf: Path,
    run: Run,
    shell: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever becomes of what is said of it."""
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    done = shell(f"pydump dump {elf} out {option} {where}")
    assert (done.returncode, done.stderr) == (0, says)
    for _ in range(100 if option == "--detach" else 1):
        if run("compare", elf, "out").code == 0:
            return
        time.sleep(0.1)
    raise AssertionError("it is not there")


def test_a_dump_of_which_memory_is_missing_says_so_wherever_its_report_goes(
    elf: Path, run: Run, shell: Callable[..., Any], tmp_path: Path
) -> None:
    import struct

    run("dump", elf, "whole", "--compression", "zlib")
    data = bytearray((tmp_path / "whole").read_bytes())
    block, sub, bitmaps = struct.unpack_from("<iiI", data, 428)
    struct.pack_into("<I", data, 424, struct.unpack_from("<I", data, 424)[0] | 8)  # the dump is incomplete, and
    struct.pack_into("<q", data, (1 + sub + bitmaps) * block, 0)  # its first page is lost
    (tmp_path / "lost").write_bytes(data)
    assert shell("pydump dump lost out > /dev/full").returncode == 3


def test_errors_are_told_by_the_exit_code_where_nobody_hears_them(elf: Path, shell: Callable[..., Any]) -> None:
    for where in ("2>&-", "2>/dev/full", ">&- 2>&-"):
        assert shell(f"pydump info nowhere {where}").returncode == 1
        assert shell(f"pydump dump {elf} out --format nothing {where}").returncode == 2


@pytest.mark.parametrize(
    ("option", "flattened"), [("", True), ("--format elf", False), ("--format elf --flatten", True)]
)
def test_a_dry_run_into_a_pipe_says_what_a_run_would_do(
    option: str, flattened: bool, elf: Path, shell: Callable[..., Any], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    for output in ("fifo", "-"):  # nobody reads from the first
        would = shell(f"pydump dump {elf} {output} {option} --json --dry-run 2>&1 | cat")
        assert json.loads(would.stdout)["flattened"] == flattened
    done = shell(f"pydump dump {elf} - {option} -q | head -c 12")
    assert done.stdout == (b"makedumpfile" if flattened else b"\x7fELF\x02\x01\x01\0\0\0\0\0")


@pytest.mark.parametrize(
    ("arguments", "lost"),
    [
        (("info",), ""),
        (("dump", "out"), "; nothing was left at the output"),
        (("dump", "-"), "; the output is not complete"),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_waiting_for_a_named_pipe_is_said_and_can_be_interrupted(
    arguments: tuple[str, ...], lost: str, number: signal.Signals, tmp_path: Path, pydump_command: list[str]
) -> None:
    os.mkfifo(tmp_path / "fifo")
    command = [*pydump_command, arguments[0], "fifo", *arguments[1:]]
    with subprocess.Popen(command, cwd=tmp_path, stdout=-1, stderr=-1, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert said == "pydump: warning: fifo is a named pipe: waiting for somebody to write to it\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    how = "interrupted" if number == signal.SIGINT else "ended by SIGTERM"
    assert (process.returncode, out, err) == (130, "", f"pydump: error: {how}{lost}\n")
    assert list(tmp_path.iterdir()) == [tmp_path / "fifo"]


def test_ctrl_c_reaches_a_worker_that_was_forked_just_now(
    qemu: Qemu, tmp_path: Path, pydump_command: list[str]
) -> None:
    """It goes to each process of the group; what it means for a worker, the parent says."""
    (tmp_path / "sitecustomize.py").write_text("""
import os, signal
def interrupted():
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000): pass
os.register_at_fork(after_in_child=interrupted)
""")
    done = subprocess.run(
        [*pydump_command, "dump", str(qemu("linux-x86_64", "elf")), "out", "--workers", "2"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def with_sitecustomize(
    command: list[str], directory: Path, interrupts: signal.Handlers
) -> subprocess.CompletedProcess[str]:
    """Run a command whose interpreter begins with the ``sitecustomize.py`` in ``directory``, SIGINT handled so."""
    return subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(directory)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, interrupts) and None,
    )  # fmt: skip


@pytest.mark.parametrize("module", ["typer", "pydump.registry", "pydump_format_elf", "numpy"])
def test_ctrl_c_while_modules_are_loaded(module: str, elf: Path, tmp_path: Path, pydump_command: list[str]) -> None:
    """As one is imported, which may swallow the exception or make another of it."""
    (tmp_path / "sitecustomize.py").write_text(f"""
import os, signal, sys
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            try:
                os.kill(os.getpid(), signal.SIGINT)
                for _ in range(1000): pass
            except KeyboardInterrupt:
                raise RuntimeError("something odd happened") from None
sys.meta_path.insert(0, Interrupts())
""")
    done = with_sitecustomize([*pydump_command, "dump", str(elf), "out"], tmp_path, signal.SIG_DFL)
    assert (done.returncode, done.stderr) == (130, "pydump: error: interrupted\n")
    assert not (tmp_path / "out").exists()


def test_ctrl_c_that_is_ignored_stays_ignored(elf: Path, tmp_path: Path, pydump_command: list[str]) -> None:
    """As in the background of a shell script."""
    (tmp_path / "sitecustomize.py").write_text("""
import os, signal, sys
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
""")
    done = with_sitecustomize([*pydump_command, "dump", str(elf), "out"], tmp_path, signal.SIG_IGN)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("mib", [60, 80, 95, 100, 110, 115, 120, 125])
def test_little_memory_is_one_line(mib: int, qemu: Qemu, tmp_path: Path, pydump_command: list[str]) -> None:
    done = subprocess.run(
        [*pydump_command, "dump", str(qemu("linux-x86_64", "elf")), "out", "--compression", "lzo", "--workers", "2"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (mib << 20, mib << 20)),
    )  # fmt: skip
    if done.returncode == 0:
        return  # where libraries are smaller, it is enough
    if "Fatal Python error" in done.stderr:
        pytest.skip("the interpreter ends the process by itself")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert len(done.stderr) < 300
    assert "plugin" not in done.stderr and "internal error" not in done.stderr
    assert list(tmp_path.iterdir()) == []
