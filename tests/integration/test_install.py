"""Parts of pydump, installed alone into empty environments, as a user would."""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path

import pytest
from environments import ROOT, Environment


@pytest.fixture
def elf(tmp_path: Path) -> Path:
    """QEMU's ELF dump of a small guest."""
    path = tmp_path / "elf"
    path.write_bytes(lzma.decompress((ROOT / "tests/data/qemu/nano-x86_64/elf.xz").read_bytes()))
    return path


def test_what_is_missing_is_named_and_works_once_installed(tmp_path: Path, elf: Path) -> None:
    environment = Environment(tmp_path / "venv")
    environment.install("core", "plugins/format-elf", "plugins/arch-x86-64")

    refused = environment.pydump("dump", elf, tmp_path / "out", "--format", "kdump")
    assert refused.returncode == 2
    assert "pip install pydump-format-kdump" in refused.stderr

    environment.install("plugins/format-kdump")
    refused = environment.pydump("dump", elf, tmp_path / "out", "--compression", "lzo")
    assert refused.returncode == 2
    assert (
        refused.stderr == "pydump: error: unknown compressor 'lzo': known are none; pip install pydump-compressor-lzo\n"
    )
    assert not (tmp_path / "out").exists()

    environment.install("plugins/compressor-lzo")
    done = environment.pydump("dump", elf, tmp_path / "out", "--compression", "lzo")
    assert done.returncode == 0, done.stderr
    assert environment.pydump("compare", elf, tmp_path / "out").returncode == 0


def test_without_the_architecture_a_dump_converts_with_a_warning(tmp_path: Path, elf: Path) -> None:
    environment = Environment(tmp_path / "venv")
    environment.install("core", "plugins/format-elf", "plugins/format-kdump")
    done = environment.pydump("dump", elf, tmp_path / "out", "--compression", "none")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("pydump: warning: no architecture plugin knows this guest (e_machine 62)")
    assert environment.pydump("verify", tmp_path / "out").returncode == 0
    back = environment.pydump("dump", tmp_path / "out", tmp_path / "back", "--format", "elf")
    assert back.returncode == 2  # an ELF file names its machine, and a kdump's name for it takes the plugin to read
    assert "--arch" in back.stderr


def test_core_alone_says_what_it_needs(tmp_path: Path, elf: Path) -> None:
    environment = Environment(tmp_path / "venv")
    environment.install("core")
    assert environment.pydump("--help").returncode == 0
    assert "raw" in environment.pydump("plugins").stdout
    refused = environment.pydump("info", elf)
    assert refused.returncode == 1
    assert "pip install pydump-format-elf" in refused.stderr
    assert shutil.which("pydump", path=str(tmp_path / "venv/bin"))
