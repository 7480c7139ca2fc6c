"""The documentation builds without a warning, names everything there is, and is spelled right."""

from __future__ import annotations

import ast
import html
import inspect
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import FunctionType, ModuleType
from typing import Any

import pytest

from pydump.layout.struct import Layout
from pydump.options import option_fields
from pydump.registry import installed

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))
#: What a plugin may import.
PLUGIN_ROOMS = (
    "pydump.interfaces",
    "pydump.model",
    "pydump.layout",
    "pydump.options",
    "pydump.errors",
    "pydump.hookspecs",
    "pydump.process",
    "pydump.signals",
)
#: What of pydump.testing is there to be called.
TESTING = ("guests", "ram", "readers")

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


@cache
def commands() -> list[tuple[str, Any, list[Any]]]:
    from pydump_reference import command_tree

    return list(command_tree())


def test_every_command_and_option_is_there(built: Path, text: str) -> None:
    man = (built / "man" / "pydump.1").read_text().replace("\\-", "-")
    found = 0
    for name, _, params in commands():
        assert f"pydump {name}".strip() in text
        for param in params:
            flags = (*param.opts, *param.secondary_opts) if param.param_type_name == "option" else (param.metavar,)
            for flag in flags:
                assert flag in text and flag in man, f"pydump {name} {flag}"
                found += 1
            assert param.help, f"pydump {name} {param.name} has no help"
    assert found > 60


def test_every_default_is_there(built: Path) -> None:
    page = (built / "html" / "reference" / "command-line.html").read_text()
    man = " ".join((built / "man" / "pydump.1").read_text().replace("\\-", "-").split())
    entries = [html.unescape(re.sub(r"<[^>]+>", "", entry)) for entry in re.findall(r"<dt>.*?</dd>", page, re.S)]
    told = {tuple(entry.replace(",", "").split()[:1]): entry for entry in entries}
    for flag, default in {"--format": "kdump", "--progress": "auto", "--pause": "auto", "--zlib-level": "1"}.items():
        assert f"Default: {default}." in told[(flag,)]
        assert re.search(rf"{flag}[^-].{{,250}}Default: {default}\.", man), flag
    for _, _, params in commands():
        for param in params:
            if param.param_type_name == "option" and not param.is_flag and param.default not in (None, ""):
                assert "Default: " in told[(param.opts[0],)], param.opts[0]


def test_every_option_of_a_plugin_is_there(text: str) -> None:
    registry = installed()
    for cls in (*registry.compressors(), *registry.formats(), *registry.sources()):
        for declared in option_fields(cls.Options):
            for flag in "/".join(declared.flags_of(cls.name)).split("/"):
                assert flag in text, flag


def modules(*rooms: str) -> Iterator[ModuleType]:
    """Modules by name, and those in packages."""
    for room in rooms:
        module = import_module(room)
        yield module
        if hasattr(module, "__path__"):
            yield from (import_module(found.name) for found in iter_modules(module.__path__, f"{room}."))


def defined(body: list[ast.stmt]) -> Iterator[str]:
    """The public names that a module or class itself defines."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        else:
            names = []
        yield from (name for name in names if not name.startswith("_"))


def public_names(module: ModuleType) -> Iterator[str]:
    """Every public name of a module and of its public classes, dotted."""
    tree = ast.parse(inspect.getsource(module))
    for name in defined(tree.body):
        yield f"{module.__name__}.{name}"
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from (f"{module.__name__}.{node.name}.{name}" for name in defined(node.body))


@pytest.fixture(scope="session")
def inventory(built: Path) -> set[str]:
    """The Python names that the built pages have an anchor for. Source: Sphinx's objects.inv, version 2."""
    lines = zlib.decompress((built / "html" / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode().splitlines()
    return {line.split(" ")[0] for line in lines if line.split(" ")[1].startswith("py:")}


def test_every_public_name_has_an_anchor(inventory: set[str], text: str) -> None:
    import pydump

    for name in pydump.__all__:
        assert f"pydump.{name}" in text, name
    wanted = {f"{pydump._HOMES[name]}.{name}" for name in pydump.__all__}
    for module in modules("pydump.api", *PLUGIN_ROOMS, *("pydump.testing." + name for name in TESTING)):
        wanted |= set(public_names(module))
    for module in modules("pydump.testing"):  # the kits; what is in one is for its subclasses, not for callers
        wanted |= {name for name in public_names(module) if re.fullmatch(r".*\.[A-Z]\w+Tests", name)}
    assert len(wanted) > 500
    assert sorted(wanted - inventory) == []


def test_every_public_name_says_what_it_is() -> None:
    """By a docstring, its own or that of what it implements; data by a line of its class's, or a comment ``#:``."""
    silent = []
    for module in modules("pydump.api", *PLUGIN_ROOMS):
        for full in public_names(module):
            owner, _, member = full.removeprefix(f"{module.__name__}.").partition(".")
            home = getattr(module, owner)
            if member and issubclass(home, Layout):  # C's own names: the format's page has a table of them
                continue
            name = member or owner
            thing = inspect.getattr_static(home, member, None) if member else home
            if isinstance(thing, type | FunctionType | property | classmethod | staticmethod):
                told = inspect.getdoc(getattr(home, member) if member else home)
            else:
                docs = "\n".join(cls.__doc__ or "" for cls in home.__mro__) if member else ""
                source = inspect.getsource(home if member else module)
                told = re.search(rf"\b{name}\b", docs)
                told = told or re.search(rf"^ *(#: .*\n *{name}\b|{name}\b.*  #: )", source, re.M)
            if not told:
                silent.append(full)
    assert silent == []


def test_every_error_and_exit_code_is_there(built: Path, text: str) -> None:
    from pydump.cli import ending
    from pydump.errors import PydumpError

    def below(cls: type) -> Iterator[type]:
        yield cls
        for sub in cls.__subclasses__():
            yield from below(sub)

    codes = {cls.exit_code for cls in below(PydumpError)}  # type: ignore[attr-defined]
    codes |= {ending.EXIT_DIFFERS, ending.EXIT_INCOMPLETE, ending.EXIT_INTERRUPTED, ending.EXIT_BROKEN_PIPE, 0}
    page = (built / "html" / "reference" / "command-line.html").read_text()
    listed = page[page.index('id="exit-codes"') : page.index('id="environment"')]
    assert {int(code) for code in re.findall(r"<dt>(\d+)", listed)} == codes


def test_every_environment_variable_is_there(built: Path) -> None:
    read = set()
    for path in (*(ROOT / "core/src").rglob("*.py"), *ROOT.glob("plugins/*/src/*/*.py")):
        text = path.read_text()
        for line in re.findall(r".*\bos\.(?:environ|getenv)\b.*", text):
            names = re.findall(r'"([A-Z][A-Z0-9_]+)"', line)
            for constant in re.findall(r"\b([A-Z][A-Z0-9_]+)\b in os\.environ", line):
                names += re.findall(rf'^{constant} = "(\w+)"', text, re.M)
            assert names, f"{path}: which variable is it? {line}"
            read |= set(names)
    page = (built / "html" / "reference" / "command-line.html").read_text()
    section = page[page.index('id="environment"') : page.index('id="see-also"')]
    told = set(re.findall(r'<dt>.*?<span class="pre">(\w+)</span>', section))
    assert {"TMPDIR", "NO_COLOR", "PYDUMP_STRICT_PLUGINS"} <= read
    assert read <= told


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
