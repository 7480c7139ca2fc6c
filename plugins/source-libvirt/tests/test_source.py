"""What a name leads to, with libvirt's own driver for tests where one is connected to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import ClassVar

import pytest

from pydump.errors import PlanError, PydumpError, SourceError
from pydump.interfaces.source import Source
from pydump.testing.source import SourceTests
from pydump_source_libvirt import LibvirtSource
from pydump_source_libvirt.domain import RUNNING, Domain, GoneError
from pydump_source_libvirt.source import parsed

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"  # of the domain that libvirt's driver for tests has


class TestLibvirt(SourceTests):
    source: ClassVar[type[Source]] = LibvirtSource


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        ("vm", ("", "vm")),
        ("qemu:///system:vm", ("qemu:///system", "vm")),
        ("qemu+unix:///session:vm", ("qemu+unix:///session", "vm")),
        ("qemu:///session?socket=/a:b:vm", ("qemu:///session?socket=/a:b", "vm")),
        ("a:b", ("", "a:b")),
    ],
)
def test_what_names_a_domain(argument: str, found: tuple[str, str]) -> None:
    assert parsed(argument) == found


@pytest.mark.parametrize(
    "argument",
    [
        "qemu://host/system:vm",
        "qemu+ssh://user@host/system:vm",
        "qemu+ssh:///system:vm",
        "qemu+tls:///system:vm",
        "ssh://host/system:vm",
        "ssh:///system:vm",
    ],
)
def test_libvirt_on_another_host_is_refused(argument: str) -> None:
    with pytest.raises(PlanError, match=r"is libvirt on another host: .*; run pydump on that host: ssh HOST"):
        parsed(argument)


@pytest.mark.parametrize("argument", ["", "qemu:///session", "qemu:///session:", "a\nb", "qemu://[:vm"])
def test_what_names_no_domain_is_refused(argument: str) -> None:
    with pytest.raises(PlanError):
        parsed(argument)


def test_without_libvirt_python_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)
    with pytest.raises(PlanError, match=r"apt install python3-libvirt.*pydump-source-libvirt\[libvirt\]") as caught:
        LibvirtSource.open("vm")
    assert caught.value.exit_code == 2


@pytest.fixture
def domain() -> Iterator[Domain]:
    """The one that libvirt's driver for tests has; it is made anew for each connection."""
    pytest.importorskip("libvirt_qemu", reason="libvirt-python is not installed: apt install libvirt-dev pkg-config")
    domain = Domain("test:///default", UUID)
    yield domain
    domain.close()


def test_a_domain_is_found_by_its_uuid(domain: Domain) -> None:
    assert (domain.name, domain.uuid, domain.state()) == ("test", UUID, RUNNING)
    assert domain.xml().startswith(b"<domain")
    domain.refuse_shut_off()


def test_a_domain_that_is_not_there(domain: Domain) -> None:
    with pytest.raises(GoneError, match="^libvirt has no domain 'other'; virsh list --all"):
        Domain("test:///default", "other")


def test_a_domain_without_memory_is_refused(domain: Domain) -> None:
    domain._domain.managedSave()
    with pytest.raises(
        SourceError,
        match=r"^the domain test is saved; its memory is in its save image.*: /var/lib/libvirt/qemu/save/test\.save$",
    ):
        domain.refuse_shut_off()
    domain._domain.managedSaveRemove()
    with pytest.raises(SourceError, match="^the domain test is shut off; start it"):
        domain.refuse_shut_off()


def test_a_driver_without_a_monitor_is_refused(domain: Domain) -> None:
    with pytest.raises(PlanError, match="^test:///default is not libvirt's driver of QEMU"):
        LibvirtSource.open("test:///default:test")
    for attempt in (lambda: domain.monitor("query-status"), domain.job, lambda: domain.dump("/nowhere/at-all")):
        with pytest.raises(PydumpError, match="^libvirt"):
            attempt()
