"""Other processes: when one was started, how this one ends with its parent, and one that outlives it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydump.errors import Cancelled, SourceError

if TYPE_CHECKING:
    import socket
    import subprocess

#: Source: sys/prctl.h.
PR_SET_PDEATHSIG: Final = 1
#: The number of ioprio_set by machine, as uname names it.
IOPRIO_SET: Final = {
    "x86_64": 251,
    "i686": 289,
    "aarch64": 30,
    "riscv64": 30,
    "armv7l": 314,
    "ppc64le": 273,
    "s390x": 282,
}
#: The number that follows is a process's.
IOPRIO_WHO_PROCESS: Final = 1
#: Disk time that nobody else wants. Source: linux/ioprio.h.
IOPRIO_CLASS_IDLE: Final = 3 << 13


def die_with_parent(parent: int, number: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent ends, however it ends.

    Args:
        parent: The parent's process number, as the parent knows it.
        number: The signal.

    Raises:
        Cancelled: The parent has ended already.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        raise Cancelled("the parent process is gone")


def outlive_parent() -> None:
    """Undo :func:`die_with_parent`."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0)


def be_nice() -> None:
    """From now on this process, and those it starts, take CPUs and disks only when nobody else wants them.

    Source: ioprio_set(2), and the system call's number in arch/*/entry/syscalls/*.tbl of the Linux kernel.
    """
    os.nice(19)
    number = IOPRIO_SET.get(os.uname().machine)
    if number is not None:
        ctypes.CDLL(None).syscall(number, IOPRIO_WHO_PROCESS, 0, IOPRIO_CLASS_IDLE)


def start_watcher(script: Path, *arguments: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a process that sets a guest right when this one ends, however it ends.

    Args:
        script: The Python file that it runs, in its folder; nothing is installed there but the standard library.
        arguments: For the script.

    Returns:
        The process, and a socket of packets to its standard input, which is closed with this process.

    Raises:
        SourceError: It cannot be started.
    """
    import socket
    import subprocess

    lifeline, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Who ends all that belongs to pydump, by group, control group or name, must not end it before it has done its work:
    # no signal that can be blocked reaches it, from its first moment on, and its command line says nothing of pydump.
    # It has a session of its own, too, so that it outlives the terminal.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        process = subprocess.Popen(
            [os.path.realpath(sys.executable), "-I", "-S", script.name, *arguments],
            cwd=str(script.parent),
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        lifeline.close()
        raise SourceError(f"cannot start the process that watches over the guest: {error.strerror}") from None
    except BaseException:
        lifeline.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
    return process, lifeline


def start_time(pid: int) -> int | None:
    """When a process was started, in clock ticks since boot: another one that gets its number has another start.

    Args:
        pid: The process number.

    Returns:
        0 for a process that runs where there is no /proc; None for one that does not run.

    Source: proc(5), /proc/pid/stat: fields 3 and 22.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # field 2 is free text
        return None if fields[0] == "Z" else int(fields[19])
    except (OSError, IndexError, ValueError):
        if os.path.exists("/proc/self/stat"):
            return None
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass
    return 0
