"""What pydump new-plugin writes, installed as it is: it works, and passes what every plugin of its role must pass."""

from __future__ import annotations

from pathlib import Path

import pytest
from environments import Environment

#: Role to name, one of two words among them.
NEW = {
    "arch": "abacus",
    "compressor": "squeeze",
    "executor": "crew",
    "filter": "sieve",
    "format": "drawer_2",
    "source": "tape",
    "storage": "shelf",
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Environment:
    """An environment with pydump and all new plugins, which lie beside it."""
    directory = tmp_path_factory.mktemp("new")
    made = Environment(directory / "venv", wheels)
    made.install("pydump-core[testing]")
    for role, name in NEW.items():
        done = made.pydump("new-plugin", role, name, cwd=directory)
        assert (done.returncode, done.stderr) == (0, "")
        dashed = f"pydump-{role}-{name.replace('_', '-')}"
        assert f"{dashed}: pip install -e './{dashed}[test]'" in done.stdout
        made.install(directory / dashed)
    return made


@pytest.mark.parametrize("role", NEW)
def test_it_passes_the_kit_and_its_own_tests(environment: Environment, role: str, tmp_path: Path) -> None:
    dashed = NEW[role].replace("_", "-")
    done = environment.pytest("--pyargs", "pydump.testing", f"--pydump-plugin={role}-{dashed}", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    done = environment.pytest(environment.directory.parent / f"pydump-{role}-{dashed}", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_they_work_together(environment: Environment, tmp_path: Path) -> None:
    ram = bytes(range(256)) * 64 + bytes(1 << 16)
    (tmp_path / "ram").write_bytes(ram)
    dumped = environment.pydump("dump", "tape:ram", "out", "--arch", "abacus", "--format", "drawer_2", cwd=tmp_path)
    assert (dumped.returncode, dumped.stderr) == (0, "")
    assert environment.pydump("verify", "out", cwd=tmp_path).returncode == 0
    assert environment.pydump("compare", "out", "tape:ram", "--arch", "abacus", cwd=tmp_path).returncode == 0
    assert (tmp_path / "out").read_bytes().endswith(ram)
    shelved = environment.pydump("dump", "out", "shelf:shelved", "--format", "drawer_2", cwd=tmp_path)
    assert (shelved.returncode, shelved.stderr) == (0, "")
    assert (tmp_path / "shelved").read_bytes() == (tmp_path / "out").read_bytes()
    assert environment.pydump("compare", "shelf:shelved", "out", cwd=tmp_path).returncode == 0
    refused = environment.pydump(
        "dump", "out", "again", "--format", "drawer_2", "--compression", "squeeze", cwd=tmp_path
    )
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    listed = environment.pydump("plugins", cwd=tmp_path).stdout
    assert all(f"{role}-{name.replace('_', '-')}" in listed for role, name in NEW.items())
    refused = environment.pydump("new-plugin", "format", "drawer_2", cwd=tmp_path)
    assert refused.stderr == ("pydump: error: the format name 'drawer_2' is taken; pydump plugins lists the names\n")
