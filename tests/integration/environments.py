"""Empty virtual environments, and what a user would install into them: wheels, built and fetched once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECTS = (ROOT / "core", *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml")), ROOT)
EXAMPLES = tuple(sorted(path.parent for path in ROOT.glob("examples/*/pyproject.toml")))


def build_wheels(directory: Path) -> Path:
    """Build the wheels of everything here, and fetch those of all that it needs, in the versions the tests run with.

    Everything is built from a copy, as somebody has it who took the folders without the checkout around them.

    Returns:
        The directory with the wheels, for ``pip install --no-index --find-links``.
    """
    source, wheels = directory / "source", directory / "wheels"
    ignored = shutil.ignore_patterns("__pycache__")
    for project in (*PROJECTS, *EXAMPLES):
        if project == ROOT:
            for name in ("pyproject.toml", "README.md", "LICENSE"):
                shutil.copy(ROOT / name, source)
        else:
            shutil.copytree(project, source / project.relative_to(ROOT), ignore=ignored)
    folders = [f"./{project.relative_to(ROOT)}" for project in (*PROJECTS, *EXAMPLES)]
    command = ["wheel", "--no-build-isolation", "--wheel-dir", str(wheels), "-c", str(ROOT / "constraints.txt")]
    pip(*command, *folders, "./core[testing,map]", "./plugins/compressor-zlib[isal]", "hatchling", cwd=source)
    if find_spec("lzo"):  # it can be built here
        pip(*command, "python-lzo")
    return wheels


class Environment:
    """An empty virtual environment, which gets wheels and nothing else: no registry, and nothing of this checkout.

    Attributes:
        directory: Where it is.
    """

    def __init__(self, directory: Path, wheels: Path) -> None:
        self.directory = directory
        self._bin = directory / "bin"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "PYDUMP_"))}
        offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
        #: What its programs see: its own commands first, and a pip that takes everything from the wheels.
        self.variables = {**kept, **offline, "PATH": f"{self._bin}:{kept['PATH']}", "COLUMNS": "200"}
        # Without a pip of its own it is made thirty times as fast; ours installs into it.
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True, timeout=120)

    def install(self, *what: str | Path) -> None:
        """``pip install`` of distributions, by name or as folders, together."""
        # Without --no-compile most of the time would go into modules that nobody imports.
        pip("--python", str(self._bin / "python"), "install", "--no-compile", *map(str, what), env=self.variables)

    def pydump(
        self, *arguments: str | Path, cwd: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the command that was installed, with ``variables`` in its environment."""
        return self.run("pydump", *arguments, cwd=cwd, **variables)

    def pytest(self, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run the tests that ``arguments`` name."""
        return self.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, cwd=cwd)

    def run(
        self, program: str, *arguments: str | Path, cwd: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run one of its programs."""
        return subprocess.run(
            [str(self._bin / program), *map(str, arguments)],
            cwd=cwd, env={**self.variables, **variables}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip


def pip(*arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    """Run the tests' own pip."""
    command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
