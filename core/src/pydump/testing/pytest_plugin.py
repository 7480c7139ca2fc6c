"""``pytest --pyargs pydump.testing --pydump-plugin=NAME``: the conformance tests over what is installed.

pytest finds this through the entry point group ``pytest11``; all it does elsewhere is to know the option.
"""

from __future__ import annotations

from pathlib import Path

import pytest

#: The entry points whose classes are tested; none: all.
wanted: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--pydump-plugin``."""
    parser.getgroup("pydump").addoption(
        "--pydump-plugin",
        action="append",
        default=[],
        metavar="NAME",
        help="with --pyargs pydump.testing: test the plugin of this entry point (default: all that are installed)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Remember which plugins are meant, and refuse names that are none."""
    wanted[:] = config.getoption("--pydump-plugin")
    if not wanted:
        return
    from pydump.registry import installed

    known = {plugin.name: plugin for plugin in installed().plugins}
    for name in wanted:
        if name not in known:
            raise pytest.UsageError(f"there is no plugin {name}: installed are {', '.join(known)}")
        if known[name].error:
            raise pytest.UsageError(f"plugin {name} does not work: {known[name].error}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse to test something else instead of the plugins that are meant."""
    if wanted and not any(item.path == Path(__file__).with_name("test_installed.py") for item in items):
        raise pytest.UsageError("--pydump-plugin says what --pyargs pydump.testing tests: say both")
