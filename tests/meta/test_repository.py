"""The repository's own rules."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pydump
from pydump.registry import installed

ROOT = Path(__file__).parents[2]
PROJECTS = [ROOT, ROOT / "core", *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]


def project(folder: Path) -> dict[str, object]:
    """The [project] table of a distribution."""
    table: dict[str, object] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return table


@pytest.mark.parametrize("folder", PROJECTS, ids=lambda path: path.name)
def test_every_distribution_is_complete(folder: Path) -> None:
    facts = project(folder)
    assert facts["version"] == pydump.__version__
    assert facts["license"] == "GPL-2.0-or-later"
    assert facts["requires-python"] == ">=3.11"
    assert (folder / "README.md").read_text().startswith("# ")
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()  # no symlink: an sdist holds it
    if folder != ROOT:
        assert len(list(folder.glob("src/*/py.typed"))) == 1


def test_the_suite_depends_on_everything() -> None:
    names = {str(project(folder)["name"]) for folder in PROJECTS} - {"pydump-suite"}
    depends = project(ROOT)["dependencies"]
    assert isinstance(depends, list)
    names = names - {"pydump-core"} | {"pydump-core[map]"}  # it draws pictures, too
    names -= {"pydump-executor-dask"}  # it is large: the extra dask has it
    assert project(ROOT)["optional-dependencies"]["dask"] == [f"pydump-executor-dask=={pydump.__version__}"]  # type: ignore[index]
    assert sorted(depends) == sorted(f"{name}=={pydump.__version__}" for name in names)


def test_every_plugin_works() -> None:
    assert [plugin.error for plugin in installed().plugins if plugin.error] == []


@pytest.mark.parametrize("folder", PROJECTS[2:], ids=lambda path: path.name)
def test_importing_a_plugin_loads_nothing_native(folder: Path) -> None:
    packages = [path.name for path in folder.glob("src/*") if path.is_dir()]
    heavy = "numpy isal lzo lzallright cramjam snappy zstandard zlib_ng qemu libvirt libvirtmod".split()
    for package in packages:
        script = f"import sys, {package}; print([m for m in sys.modules if m.split('.')[0] in {heavy}])"
        out = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
        ).stdout
        assert out.strip() == "[]"


@pytest.mark.parametrize("room", ["interfaces", "model", "layout"])
def test_public_names_are_documented(room: str) -> None:
    """Every public module, class and function; a method that implements an interface has its docstring there."""
    missing = []
    for path in (ROOT / "core/src/pydump" / room).glob("*.py"):
        tree = ast.parse(path.read_text())
        nodes = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef))]
        for node in nodes:
            name = getattr(node, "name", path.stem)
            if not name.startswith("_") and ast.get_docstring(node) is None:
                missing.append(f"{path.name}: {name}")
    assert missing == []


def test_nothing_speaks_of_where_it_was_made() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("only a git checkout knows which files are the project's")
    pattern = re.compile(r"/work/|/root/|https?://[^ \"]*/simple|deb\.debian\.org|pypi\.org")
    found = []
    for name in tracked.stdout.splitlines():
        path = ROOT / name
        if path == Path(__file__).resolve() or path.suffix == ".xz" or not path.is_file():
            continue
        text = path.read_bytes().decode("utf-8", "replace")
        found += [f"{name}: {match[0]}" for match in pattern.finditer(text)]
    assert found == []
