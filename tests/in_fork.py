"""The command ``pydump`` in a fork of the test process: a process of its own, without 0.2 s of imports each time."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import pkgutil
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from pathlib import Path

import pydump.__main__
import pydump.cli

COMMAND = [sys.executable, "-m", "pydump"]


for module in pkgutil.walk_packages(pydump.cli.__path__, "pydump.cli."):
    importlib.import_module(module.name)


def run(*arguments: str, stdin: bytes, cwd: Path, timeout: float) -> subprocess.CompletedProcess[bytes]:
    """Run the command as ``subprocess.run`` would run ``python -m pydump``, through pipes as well.

    Raises:
        subprocess.TimeoutExpired: It took longer than ``timeout`` seconds, and was killed.
    """
    (read_in, write_in), (read_out, write_out), (read_err, write_err) = os.pipe(), os.pipe(), os.pipe()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of a fork beside threads
        pid = os.fork()
    if pid == 0:
        _become(arguments, cwd, read_in, write_out, write_err)
    for fd in (read_in, write_out, write_err):
        os.close(fd)
    kept: dict[int, bytes] = {}

    def keep(fd: int) -> None:
        with open(fd, "rb") as file:
            kept[fd] = file.read()

    readers = [threading.Thread(target=keep, args=(fd,)) for fd in (read_out, read_err)]
    late = threading.Event()
    timer = threading.Timer(timeout, lambda: (late.set(), os.kill(pid, signal.SIGKILL)))
    for thread in (*readers, timer):
        thread.start()
    try:
        _send(write_in, stdin)
        for reader in readers:
            reader.join()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        timer.cancel()
    if late.is_set():
        raise subprocess.TimeoutExpired([*COMMAND, *arguments], timeout)
    return subprocess.CompletedProcess([*COMMAND, *arguments], code, kept[read_out], kept[read_err])


def _send(fd: int, data: bytes) -> None:
    # What it does not want to read is left.
    with contextlib.suppress(BrokenPipeError), open(fd, "wb", buffering=0) as pipe:
        while data:
            data = data[pipe.write(data) :]


def _become(arguments: tuple[str, ...], cwd: Path, *streams: int) -> None:
    """Be the command; does not return."""
    try:
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
        os.closerange(3, 1 << 16)
        os.chdir(cwd)
        sys.argv = [str(pydump.__main__.__file__), *arguments]
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  (as the next two: open until the process ends)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
        # What pytest has set up for the test process is not the command's.
        logging.getLogger().handlers.clear()
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        sys.unraisablehook, threading.excepthook = sys.__unraisablehook__, threading.__excepthook__
        pydump.__main__.main()
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(1)
