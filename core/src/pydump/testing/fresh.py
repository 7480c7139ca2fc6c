"""What importing a module costs, seen from a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys


def native_modules(cls: type, *, call: bool = False) -> list[str]:
    """The native modules, those of Python's own library aside, that importing the module of ``cls`` loads.

    NumPy is such a module, and so is a codec; each is to be loaded at first use.

    Args:
        cls: A class at the top of a module.
        call: Make an instance as well, without arguments.
    """
    script = (
        "import sys\n"
        "from importlib.machinery import EXTENSION_SUFFIXES\n"
        f"from {cls.__module__} import {cls.__name__}\n"
        f"{f'{cls.__name__}()' if call else ''}\n"
        "for name, module in sorted(sys.modules.items()):\n"
        "    native = str(getattr(module, '__file__', None)).endswith(tuple(EXTENSION_SUFFIXES))\n"
        "    if native and name.split('.')[0] not in sys.stdlib_module_names:\n"
        "        print(name)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, f"it cannot be imported from {cls.__module__}: {run.stderr.splitlines()[-1]}"
    return run.stdout.split()
