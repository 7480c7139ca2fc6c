"""A filter has options, as plugins of other roles have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pydump.builtin import storages
from pydump.builtin.raw import BytesImage
from pydump.cli import plugin_options
from pydump.engine.run import run_dump
from pydump.errors import PlanError
from pydump.interfaces.filter import Classified, Filter
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.request import Request
from pydump.options import option
from pydump.plugins import PluginInfo
from pydump.registry import Registry
from pydump.testing import dummy

PAGE = 4096


@dataclass(frozen=True, slots=True)
class RangeOptions:
    """Which pages."""

    pages: int = option(1, help="pages at the beginning", low=0, alias="--first-pages")


class RangeFilter(Filter):
    """Leaves out the first pages."""

    name: ClassVar[str] = "range"
    classes: ClassVar[dict[str, str]] = {"first": "the first pages"}
    Options: ClassVar[type] = RangeOptions

    @classmethod
    def knows(cls, guest: Guest) -> bool:
        return True

    @classmethod
    def classify(cls, source: Any, guest: Guest, arch: Any, options: Any = None) -> Classified:
        return Classified({"first": Ranges.of([(0, options.pages * PAGE)])})


REGISTRY = Registry(
    (
        PluginInfo("dummy", "", "", (("arch", dummy.DummyArch), ("format", dummy.DummyFormat))),
        PluginInfo("file", "", "", (("storage", storages.FileStorage),)),
        PluginInfo("range", "", "", (("filter", RangeFilter),)),
    )
)


def left_out(out: Path, **asked: Any) -> int:
    source = BytesImage(Guest(MemoryMap(), arch="dummy", byte_order="little"), {0: bytes(range(256)) * 4096})
    request = Request(format="dummy", compression="none", no_vmcoreinfo=True, **asked)
    return run_dump(source, "the guest", str(out), request, REGISTRY).excluded_size


def test_a_filter_gets_its_options(tmp_path: Path) -> None:
    assert left_out(tmp_path / "default", exclude={"first"}) == PAGE
    assert left_out(tmp_path / "chosen", exclude={"first"}, options={"range": {"pages": 5}}) == 5 * PAGE


@pytest.mark.parametrize(
    ("options", "exclude", "says"),
    [
        ({"pages": 5}, (), "--first-pages is of filter range, and none of its pages are left out"),
        ({"pages": -1}, ("first",), "--first-pages must be a whole number from 0, not -1"),
        ({"size": 1}, ("first",), "range has no option 'size'; available: pages"),
    ],
)
def test_options_that_have_no_effect_or_are_wrong_are_refused(
    options: dict[str, int], exclude: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    with pytest.raises(PlanError) as caught:
        left_out(tmp_path / "out", exclude=frozenset(exclude), options={"range": options})
    assert str(caught.value) == says
    assert list(tmp_path.iterdir()) == []


def test_its_flags_and_classes_are_shown() -> None:
    (flag,) = plugin_options.parameters(REGISTRY)
    assert flag.opts == ["--first-pages", "--range-pages"]
    assert flag.rich_help_panel == "Filter"
    assert plugin_options.classes(REGISTRY) == "Leave out these pages: zero,first."
