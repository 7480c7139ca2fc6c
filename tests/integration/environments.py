"""Empty virtual environments, and what a user would install into them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Environment:
    """An empty virtual environment.

    Attributes:
        directory: Where it is.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        subprocess.run([sys.executable, "-m", "venv", directory], check=True, timeout=120)
        self._bin = directory / "bin"

    def install(self, *folders: str) -> None:
        """``pip install`` of folders of this checkout, together."""
        self._pip(*(str(ROOT / folder) for folder in folders))

    def install_wheels(self, *wheels: Path | str) -> None:
        """``pip install`` of wheels, together; what they need comes in the versions that the tests run with."""
        self._pip("-c", str(ROOT / "constraints.txt"), *map(str, wheels))

    def pydump(self, *arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run the command that was installed."""
        return self._run("pydump", *map(str, arguments), cwd=cwd)

    def pytest(self, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run the tests that ``arguments`` name."""
        return self._run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, arguments), cwd=cwd)

    def _pip(self, *arguments: str) -> None:
        done = self._run("python", "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments)
        assert done.returncode == 0, done.stderr

    def _run(self, program: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [str(self._bin / program), *arguments]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def build_wheel(project: Path, directory: Path) -> Path:
    """The wheel of a project, built by what is installed here: nothing is fetched for it."""
    build = [sys.executable, "-m", "build", "-q", "--wheel", "--no-isolation", "--outdir", str(directory), str(project)]
    before = set(directory.glob("*.whl"))
    done = subprocess.run(build, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = set(directory.glob("*.whl")) - before
    return wheel
