"""The documentation builds without a warning, names everything there is, and is spelled right."""

from __future__ import annotations

import html
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pydump.options import option_fields
from pydump.registry import installed

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))

pytest.importorskip("sphinx", reason="pip install sphinx myst-parser furo: make test does")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages."""
    out = tmp_path_factory.mktemp("docs")
    for builder in ("html", "man"):
        command = [
            sys.executable,
            "-m",
            "sphinx",
            "-W",
            "--keep-going",
            "-q",
            "-b",
            builder,
            "-d",
            str(out / "doctrees"),
        ]
        done = subprocess.run(
            [*command, str(ROOT / "docs"), str(out / builder)], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="session")
def text(built: Path) -> str:
    """All that the reference says, without its markup."""
    pages = (built / "html" / "reference").rglob("*.html")
    return "\n".join(html.unescape(re.sub(r"<[^>]+>", "", page.read_text())) for page in pages)


def test_it_builds_without_a_warning(built: Path) -> None:
    assert (built / "html" / "index.html").exists()
    assert (built / "man" / "pydump.1").read_text().startswith('.\\" Man page generated')


def commands() -> Iterator[tuple[str, Any]]:
    from pydump_reference import command_tree

    return command_tree()


def test_every_command_and_option_is_there(built: Path, text: str) -> None:
    man = (built / "man" / "pydump.1").read_text().replace("\\-", "-")
    found = 0
    for name, command in commands():
        assert f"pydump {name}".strip() in text
        for param in command.params:
            flags = (*param.opts, *param.secondary_opts) if param.param_type_name == "option" else (param.metavar,)
            for flag in flags:
                assert flag in text and flag in man, f"pydump {name} {flag}"
                found += 1
            assert param.help, f"pydump {name} {param.name} has no help"
    assert found > 60


def test_every_option_of_a_plugin_is_there(text: str) -> None:
    registry = installed()
    for cls in (*registry.compressors(), *registry.formats(), *registry.sources()):
        for declared in option_fields(cls.Options):
            flag = (declared.flag or f"--{cls.name}-{declared.name}".replace("_", "-")).split("/")[0]
            assert flag in text, flag


def test_every_public_name_is_there(text: str) -> None:
    import pydump.errors
    import pydump.hookspecs
    from pydump.interfaces import arch, backing, compressor, format, paging, sink, source
    from pydump.model import guest, memory, note, plan, report, vmcoreinfo

    for name in pydump.__all__:
        assert f"pydump.{name}" in text, name
    modules = (pydump.errors, pydump.hookspecs, arch, backing, compressor, format, paging, sink, source)
    for module in (*modules, guest, memory, note, plan, report, vmcoreinfo):
        for name, thing in vars(module).items():
            own = getattr(thing, "__module__", None) == module.__name__
            if own and not name.startswith("_") and (inspect.isclass(thing) or inspect.isfunction(thing)):
                assert name in text, f"{module.__name__}.{name}"
                assert thing.__doc__, f"{module.__name__}.{name} has no docstring"


def test_every_error_and_exit_code_is_there(built: Path, text: str) -> None:
    from pydump.cli import app
    from pydump.errors import PydumpError

    def below(cls: type) -> Iterator[type]:
        yield cls
        for sub in cls.__subclasses__():
            yield from below(sub)

    codes = {cls.exit_code for cls in below(PydumpError)}  # type: ignore[attr-defined]
    codes |= {app.EXIT_DIFFERS, app.EXIT_INCOMPLETE, app.EXIT_INTERRUPTED, 0}
    page = (built / "html" / "reference" / "command-line.html").read_text()
    listed = page[page.index('id="exit-codes"') : page.index('id="environment"')]
    assert {int(code) for code in re.findall(r"<dt>(\d+)", listed)} == codes


def test_links_in_the_readme_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)#]+)", (ROOT / name).read_text()):
            assert "://" in target or (ROOT / target).exists(), f"{name}: {target}"


def test_spelling() -> None:
    pytest.importorskip("codespell_lib", reason="pip install codespell: make test does")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("this is no git checkout, so nobody says which files are the project's")
    texts = [n for n in tracked.stdout.split() if n.endswith((".md", ".py", ".toml")) and "tests/data" not in n]
    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib", *texts], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout
