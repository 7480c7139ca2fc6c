"""Pages that have something installed, followed by a stranger: a shell with python3, and nothing of pydump in it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from pages import PAGES, follow, installs


@pytest.mark.parametrize("page", [page for page in PAGES if installs(page)])
def test_what_the_page_says_happens(page: str, wheels: Path, tmp_path: Path) -> None:
    path = f"{sys.base_prefix}/bin:/usr/local/bin:/usr/bin:/bin"
    assert not shutil.which("pydump", path=path)
    variables = {
        "PATH": path,
        "HOME": os.environ.get("HOME", str(tmp_path)),
        "LANG": "C.UTF-8",
        "COLUMNS": "200",
        # Instead of a registry.
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_COMPILE": "1",  # half of the time would go into modules that nobody imports
    }
    follow(page, tmp_path, variables, "python3")


def test_there_are_such_pages() -> None:
    assert "docs/tutorials/first-plugin.md" in [page for page in PAGES if installs(page)]
