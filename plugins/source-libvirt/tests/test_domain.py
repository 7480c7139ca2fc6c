"""Answers that come through libvirt, from a QEMU that may be anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pydump.errors import SourceError
from pydump_source_libvirt.domain import CommandError, Domain
from pydump_source_libvirt.undo import has_capability, migration, reset


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Domain]]:
    """A domain whose QEMU answers everything with a text: libvirt's driver for tests has no monitor."""
    pytest.importorskip("libvirt_qemu", reason="libvirt-python is not installed: apt install libvirt-dev pkg-config")
    domain = Domain("test:///default", "test")

    def answers(text: str) -> Domain:
        monkeypatch.setattr(domain._qemu, "qemuMonitorCommandWithFiles", lambda *arguments: (text, []))
        return domain

    yield answers
    domain.close()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "1", "null", "[" * 100000, '{"return": 1}', '{"return": {"status": 1, "max-bandwidth": "x"}}',
     '{"return": [1]}'],
    ids=range(9),
)  # fmt: skip
@pytest.mark.parametrize("ask", [migration, has_capability, lambda domain: reset(domain, 1)], ids=range(3))
def test_an_answer_that_is_not_qemus_is_an_error(
    ask: Callable[[Domain], object], text: str, answers: Callable[[str], Domain]
) -> None:
    with pytest.raises(SourceError, match="^the answer to query-migrate.* is not one of QEMU's$"):
        ask(answers(text))


@pytest.mark.parametrize(
    ("text", "why"), [('{"error": {"class": "GenericError", "desc": "no"}}', "no"), ('{"error": 1}', "1")]
)
def test_what_qemu_refuses_is_said(text: str, why: str, answers: Callable[[str], Domain]) -> None:
    with pytest.raises(CommandError, match=f"^QEMU refuses query-status: {why}$") as caught:
        answers(text).monitor("query-status")
    assert caught.value.why == why
