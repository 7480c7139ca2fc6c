"""Target descriptions. Expected: the GDB manual, appendix "Target Descriptions"."""

from __future__ import annotations

import pytest

from pydump.errors import SourceError
from pydump_source_gdb.description import MAX_BITS, MAX_REGISTERS, MAX_SIZE, Register, read_description

DOCUMENTS = {
    "target.xml": """<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target version="1.0">
    <architecture> s390:64-bit </architecture><xi:include href="core.xml"/><xi:include href="cr.xml"/></target>""",
    "core.xml": """<feature name="org.gnu.gdb.s390.core"><reg name="pswm" bitsize="64" type="uint64"/>
    <reg name="pswa" bitsize="64"/><vector id="v" type="uint8" count="16"/></feature>""",
    "cr.xml": """<feature name="cr"><reg name="cr1" bitsize="64" regnum="10"/><reg name="cr0" bitsize="80" regnum="8"/>
    <reg name="cr2" bitsize="1"/></feature>""",
}


def fetched(documents: dict[str, str]):  # type: ignore[no-untyped-def]
    return lambda name: documents[name].encode()


def test_registers_are_numbered_through_all_documents() -> None:
    found = read_description(fetched(DOCUMENTS))
    assert found.architecture == "s390:64-bit"
    assert found.registers == [
        Register("pswm", 0, 64),
        Register("pswa", 1, 64),
        Register("cr0", 8, 80),
        Register("cr2", 9, 1),
        Register("cr1", 10, 64),
    ]
    assert [register.size for register in found.registers] == [8, 8, 10, 1, 8]


BOMB = """<!DOCTYPE target [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<target><architecture>&b;</architecture></target>"""


@pytest.mark.parametrize(
    "target",
    [
        BOMB,
        "",
        "<target>",
        "<target></nothing>",
        "\0\0",
        '<?xml version="1.0" encoding="none"?><target/>',
        '<target><xi:include href="target.xml"/></target>',
        '<target><reg name="a"/></target>',
        '<target><reg bitsize="8"/></target>',
        '<target><reg name="a" bitsize="8" regnum="-1"/></target>',
        '<target><reg name="a" bitsize="8" regnum="1"/><reg name="b" bitsize="8" regnum="1"/></target>',
        '<target><reg name="a" bitsize="0"/></target>',
        f'<target><reg name="a" bitsize="{MAX_BITS + 1}"/></target>',
        f'<target><reg name="a" bitsize="8" regnum="{MAX_REGISTERS}"/></target>',
        "<target>" + '<reg name="a" bitsize="8"/>' * (MAX_REGISTERS + 1) + "</target>",
        "<target>" + " " * MAX_SIZE + "</target>",
    ],
)
def test_a_damaged_description_is_refused(target: str) -> None:
    with pytest.raises(SourceError, match="target description is damaged"):
        read_description(fetched({"target.xml": target}))


def test_includes_without_end_are_refused() -> None:
    def fetch(name: str) -> bytes:
        number = 0 if name == "target.xml" else int(name)
        return f'<target><xi:include href="{number + 1}"/></target>'.encode()

    with pytest.raises(SourceError, match="more than 64 documents"):
        read_description(fetch)
