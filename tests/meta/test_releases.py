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
from pathlib import Path

import pytest

import pydump
from scripts import ROOT, script

KINDS = ("added", "changed", "fixed", "removed")


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


def test_the_suite_depends_on_every_distribution() -> None:
    known = projects(ROOT)
    requirements = known["pydump-suite"]["dependencies"]
    wanted = {r.partition("==")[0].partition("[")[0] for r in requirements}  # type: ignore[attr-defined]
    assert wanted == known.keys() - {"pydump-suite", "pydump-executor-dask"}  # the latter is an extra


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


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git repository with what a release reads and writes."""
    root = tmp_path / "checkout"
    files = [ROOT / "core/src/pydump/__init__.py", ROOT / "CHANGELOG.md", ROOT / "scripts/release"]
    files += [*ROOT.glob("pyproject.toml"), *ROOT.glob("*/pyproject.toml"), *ROOT.glob("plugins/*/pyproject.toml")]
    for path in (*files, *(ROOT / "changes").iterdir()):
        target = root / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=root, check=True, timeout=60)
    return root


def release(root: Path, version: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    """Make a release of a checkout."""
    return subprocess.run([python, root / "scripts/release", version], capture_output=True, text=True, timeout=120)


def status(root: Path) -> str:
    """What git says of a checkout."""
    command = ["git", "status", "--porcelain"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=60).stdout


def test_a_release_is_whole(checkout: Path) -> None:
    done = release(checkout, "7.8.9")
    assert done.returncode == 0, done.stderr
    assert versions(checkout) == {"7.8.9"}
    assert "## 7.8.9 (" in (checkout / "CHANGELOG.md").read_text()
    changed = status(checkout)
    assert "M  CHANGELOG.md" in changed  # in git's index, as its docstring says
    assert len(re.findall(r"^D  changes/", changed, re.M)) == len(list((ROOT / "changes").glob("+*.md")))

    again = release(checkout, "7.8.9")
    assert (again.returncode, again.stderr) == (2, "release: CHANGELOG.md has 7.8.9 already; nothing was changed\n")
    assert status(checkout) == changed


def test_a_release_that_cannot_be_whole_changes_nothing(checkout: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True, timeout=60)
    done = release(checkout, "7.8.9", str(tmp_path / "bare/bin/python"))
    assert done.returncode == 2
    assert done.stderr == "release: towncrier is not there; run it with .venv/bin/python; nothing was changed\n"
    assert status(checkout) == ""


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


# --- what is built; each needs a second or more ---


def build(directory: Path, *projects: str) -> Path:
    """Wheels and sdists."""
    command = [sys.executable, "-m", "build", "-q", "--no-isolation", "--outdir", str(directory)]
    for project in projects:
        subprocess.run([*command, str(ROOT / project)], check=True, timeout=120, capture_output=True)
    return directory


@pytest.fixture(scope="module")
def dists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plugin's wheel and sdist."""
    return build(tmp_path_factory.mktemp("dists"), "plugins/compressor-zstd")


@pytest.fixture(scope="module")
def core_dists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Core's wheel and sdist."""
    return build(tmp_path_factory.mktemp("dists"), "core")


@pytest.mark.slow
def test_what_is_built_is_as_it_should_be(dists: Path, core_dists: Path, tmp_path: Path) -> None:
    for path in (*dists.iterdir(), *core_dists.iterdir()):
        shutil.copy(path, tmp_path)
    assert list(script("check-dists").faults(tmp_path)) == []


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
                if not without or without not in name:
                    data = old.read(name)
                    new.writestr(name, data.replace(*edit) if edit[0] and name.endswith("METADATA") else data)
            if plus:
                new.writestr(plus, b"")
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"without": "py.typed"}, "no py.typed"),
        ({"without": "LICENSE"}, "no licence text"),
        ({"without": "zstd/__init__.py"}, "it lacks pydump_compressor_zstd/__init__.py"),
        ({"plus": "tests/test_it.py"}, "it has tests/test_it.py"),
        ({"plus": "pydump_compressor_zstd/other.py"}, "it has pydump_compressor_zstd/other.py"),
        ({"plus": "pydump_compressor_zstd/__pycache__/x.pyc"}, "left behind"),
        ({"edit": (b"Requires-Python: >=3.11\n", b"")}, "requires_python"),
        ({"edit": (b"Version: ", b"Version: what ")}, "version"),
        (
            {"edit": (b"Classifier: Typing :: Typed\n", b"")},
            "METADATA is not the same in the wheel that is built from it",
        ),
    ],
)
def test_what_is_wrong_with_a_wheel_is_found(wrong: dict[str, object], said: str, dists: Path, tmp_path: Path) -> None:
    rewritten(dists, tmp_path, **wrong)  # type: ignore[arg-type]
    assert said in "\n".join(script("check-dists").faults(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("room", ["pydump/engine/", "pydump/templates/", "pydump/testing/"])
def test_a_core_without_a_room_is_found(room: str, core_dists: Path, tmp_path: Path) -> None:
    rewritten(core_dists, tmp_path, without=room)
    assert f"it lacks {room}" in "\n".join(script("check-dists").faults(tmp_path))


@pytest.mark.slow
def test_a_stale_wheel_beside_the_right_one_is_found(dists: Path, tmp_path: Path) -> None:
    for path in dists.iterdir():
        shutil.copy(path, tmp_path)
    (wheel,) = dists.glob("*.whl")
    shutil.copy(wheel, tmp_path / wheel.name.replace(pydump.__version__, "0.0.9"))
    found = list(script("check-dists").faults(tmp_path))
    assert "pydump_compressor_zstd has more than one wheel" in found
    assert f"more than one version: ['0.0.9', '{pydump.__version__}']" in found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("README.md", "it has no README.md"),
        ("py.typed", "pydump_compressor_zstd/py.typed is not the same in the wheel that is built from it"),
        ("pyproject.toml", "no wheel can be built from it: "),
    ],
)
def test_what_is_wrong_with_an_sdist_is_found(missing: str, said: str, dists: Path, tmp_path: Path) -> None:
    for path in dists.glob("*.whl"):
        shutil.copy(path, tmp_path)
    (sdist,) = dists.glob("*.tar.gz")
    with tarfile.open(sdist) as old, tarfile.open(tmp_path / sdist.name, "w:gz") as new:
        for member in old.getmembers():
            if not member.name.endswith(missing):
                content = old.extractfile(member)
                new.addfile(member, io.BytesIO(content.read()) if content else None)
    assert said in "\n".join(script("check-dists").faults(tmp_path))
