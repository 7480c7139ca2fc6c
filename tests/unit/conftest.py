from __future__ import annotations

import pytest

from pydump import builtin
from pydump.registry import Registry, registry_of
from pydump.testing import dummy


@pytest.fixture
def registry() -> Registry:
    """Core and the dummy plugins, whatever else is installed."""
    return registry_of([("core", builtin), ("dummy", dummy)])
