"""One version for all distributions, a changelog from fragments, and a check that finds what must not be published."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

import pydump

ROOT = Path(__file__).parents[2]
KINDS = ("added", "changed", "fixed", "removed")


def script(name: str) -> ModuleType:
    """A script of the repository as a module."""
    loader = SourceFileLoader(name.replace("-", "_"), str(ROOT / "scripts" / name))
    spec = spec_from_loader(loader.name, loader)
    assert spec
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def projects(root: Path) -> dict[str, dict[str, object]]:
    """Every distribution's metadata, by name."""
    found = {}
    for path in (root / "pyproject.toml", root / "core/pyproject.toml", *root.glob("plugins/*/pyproject.toml")):
        project = tomllib.loads(path.read_text())["project"]
        found[project["name"]] = project
    return found


def versions(root: Path) -> set[str]:
    """Every version of pydump that stands anywhere."""
    found = set()
    for project in projects(root).values():
        found.add(str(project["version"]))
        for requirement in project.get("dependencies", []):  # type: ignore[attr-defined]
            if requirement.startswith("pydump-"):
                found.add(requirement.partition("==")[2])
    return found


def test_one_version_everywhere() -> None:
    assert versions(ROOT) == {pydump.__version__}


def test_the_suite_depends_on_every_distribution_but_optional_ones() -> None:
    known = projects(ROOT)
    requirements = known["pydump-suite"]["dependencies"]
    wanted = {r.partition("==")[0].partition("[")[0] for r in requirements}  # type: ignore[attr-defined]
    assert wanted == known.keys() - {"pydump-suite", "pydump-compressor-isal"}


def test_a_release_changes_every_version(tmp_path: Path) -> None:
    for path in (*ROOT.glob("*/pyproject.toml"), *ROOT.glob("plugins/*/pyproject.toml"), ROOT / "pyproject.toml"):
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    init = tmp_path / "core/src/pydump/__init__.py"
    init.parent.mkdir(parents=True)
    shutil.copy(ROOT / "core/src/pydump/__init__.py", init)
    changed = script("release").bump(tmp_path, "7.8.9rc1")
    assert len(changed) == len(projects(ROOT)) + 1
    assert versions(tmp_path) == {"7.8.9rc1"}
    assert '__version__ = "7.8.9rc1"' in init.read_text()
    # Nothing else was touched: other requirements keep their bounds.
    before, after = (re.sub(r"\d+\.\d+\.\d+\w*", "", (d / "core/pyproject.toml").read_text()) for d in (ROOT, tmp_path))
    assert before == after


@pytest.mark.parametrize("arguments", [[], ["1.2"], ["1.2.3", "4"], ["v1.2.3"]])
def test_a_release_wants_a_version(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts/release", *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_fragments_become_a_changelog() -> None:
    pytest.importorskip("towncrier", reason="pip install towncrier: make test does")
    fragments = [path for path in (ROOT / "changes").iterdir() if path.name != "README.md"]
    for path in fragments:
        assert re.fullmatch(rf"\+[a-z0-9-]+\.({'|'.join(KINDS)})\.md", path.name), path.name
    done = subprocess.run(
        [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "9.9.9"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())
    for path in fragments:
        assert " ".join(path.read_text().split()) in told, path.name


@pytest.fixture(scope="module")
def dists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plugin's wheel and sdist, built."""
    directory = tmp_path_factory.mktemp("dists")
    build = [sys.executable, "-m", "build", "-q", "--no-isolation", "--outdir", str(directory)]
    subprocess.run([*build, str(ROOT / "plugins/compressor-zstd")], check=True, timeout=120, capture_output=True)
    return directory


def test_what_is_built_is_as_it_should_be(dists: Path) -> None:
    assert list(script("check-dists").faults(dists)) == []


def rewritten(
    dists: Path, out: Path, *, without: str = "", plus: str = "", edit: tuple[bytes, bytes] = (b"", b"")
) -> Path:
    """The same distribution with something wrong in its wheel."""
    for path in dists.iterdir():
        if path.suffix != ".whl":
            shutil.copy(path, out)
            continue
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(out / path.name, "w") as new:
            for name in old.namelist():
                if not without or not name.endswith(without):
                    data = old.read(name)
                    new.writestr(name, data.replace(*edit) if edit[0] and name.endswith("METADATA") else data)
            if plus:
                new.writestr(plus, b"")
    return out


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"without": "py.typed"}, "no py.typed"),
        ({"without": "LICENSE"}, "no licence text"),
        ({"plus": "tests/test_it.py"}, "it has tests/test_it.py"),
        ({"plus": "pydump_compressor_zstd/__pycache__/x.pyc"}, "left behind"),
        ({"edit": (b"Requires-Python: >=3.11\n", b"")}, "requires_python"),
        ({"edit": (b"Version: ", b"Version: what ")}, "version"),
    ],
)
def test_what_is_wrong_with_a_wheel_is_found(wrong: dict[str, object], said: str, dists: Path, tmp_path: Path) -> None:
    rewritten(dists, tmp_path, **wrong)  # type: ignore[arg-type]
    assert said in "\n".join(script("check-dists").faults(tmp_path))


def test_what_is_wrong_with_an_sdist_is_found(dists: Path, tmp_path: Path) -> None:
    for path in dists.glob("*.whl"):
        shutil.copy(path, tmp_path)
    (sdist,) = dists.glob("*.tar.gz")
    with tarfile.open(sdist) as old, tarfile.open(tmp_path / sdist.name, "w:gz") as new:
        for member in old.getmembers():
            if not member.name.endswith("README.md"):
                content = old.extractfile(member)
                new.addfile(member, io.BytesIO(content.read()) if content else None)
    assert "it has no README.md" in "\n".join(script("check-dists").faults(tmp_path))
