"""What a domain's XML says of its machine. The elements are as libvirt 9.0 writes them, of a domain of the system."""

from __future__ import annotations

import pytest

from pydump_qemu_stream.domain import Domain, read_domain

XML = b"""<domain type='qemu' id='1'><name>vm</name>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>preserve</on_crash>
  <devices>
    <memory model='dimm'><alias name='dimm0'/><address type='dimm' slot='0' base='0x100000000'/></memory>
    <panic model='isa'><address type='isa' iobase='0x505'/></panic>
  </devices>
  <seclabel type='dynamic' model='apparmor' relabel='yes'><label>libvirt-6695eb01</label></seclabel>
  <seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+106</label></seclabel></domain>"""


def test_what_the_xml_says() -> None:
    found = Domain("x86_64", "pc-q35-7.2", {"memdimm0": 1 << 32}, owner="+64055:+106", on_crash="preserve", panics=True)
    assert read_domain(XML) == (found, "")


@pytest.mark.parametrize("text", [b"<domain/>", b"<domain><os/></domain>"])
def test_what_the_xml_does_not_say_is_not_known(text: bytes) -> None:
    assert read_domain(text) == (Domain(), "")


@pytest.mark.parametrize("text", [b"", b"<", b"<!DOCTYPE x><domain/>", b"\xff"])
def test_what_is_not_xml_of_libvirts_is_said(text: bytes) -> None:
    found, why = read_domain(text)
    assert found == Domain() and why
