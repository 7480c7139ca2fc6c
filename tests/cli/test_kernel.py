"""pydump dmesg and pydump size, on the bundled guest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

#: What the guest printed on its console while it booted.
CONSOLE = Path(__file__).parents[1] / "data/qemu/linux-x86_64/console.txt"


@pytest.fixture
def guest(qemu: Callable[[str, str], Path]) -> Path:
    return qemu("linux-x86_64", "elf")


def test_the_log_begins_as_the_console_does(guest: Path, run: Callable[..., Any]) -> None:
    log = run("dmesg", guest)
    assert log.code == 0
    first = next(line for line in CONSOLE.read_text().splitlines() if line.startswith("["))
    lines = log.out.splitlines()
    assert lines[0] == first
    assert sum("qemu_fw_cfg" in line or "Freeing unused kernel" in line for line in lines) >= 1
    stamps = [float(line[1:13]) for line in lines if line.startswith("[")]
    assert stamps == sorted(stamps), "in the order of time"
    assert len(stamps) > 300


def test_the_log_is_in_a_filtered_dump(guest: Path, run: Callable[..., Any]) -> None:
    assert run("dump", "-d", "31", guest, "small").code == 0
    assert run("dmesg", "small").out == run("dmesg", guest).out


def test_records_as_json(guest: Path, run: Callable[..., Any]) -> None:
    records = json.loads(run("dmesg", "--json", guest).out)["records"]
    assert records[0]["text"].startswith("Linux version 6.1.0-50-amd64")
    assert [record["seq"] for record in records] == list(range(len(records)))
    assert {record["level"] for record in records} <= set(range(8))
    assert any(record["fields"].get("subsystem") == "pci" for record in records)


def test_a_guest_without_a_kernel_has_no_log(qemu: Callable[[str, str], Path], refuse: Callable[..., str]) -> None:
    assert "page tables" in refuse(2, "dmesg", qemu("bare-x86_64", "elf"))
    said = refuse(2, "dmesg", "--follow", qemu("bare-x86_64", "elf"))
    assert said.endswith("is not a guest that runs; leave --follow out, or name a guest: qmp:SOCKET")


def test_sizes_are_those_of_dumps(guest: Path, run: Callable[..., Any], tmp_path: Path) -> None:
    """The pages are exact; the compressed size is an estimate, within a tenth for this guest."""
    report = json.loads(run("size", "--json", guest).out)
    assert [level["level"] for level in report["levels"]] == list(range(32))
    for number in (0, 16, 31):
        done = run("dump", "-d", str(number), guest, f"out{number}", "--compression", "zlib", "--zlib-library", "zlib")
        assert done.code == 0
        level = report["levels"][number]
        stored = json.loads(run("dump", "--json", "--dry-run", "-d", str(number), guest, "x").out)["stored_size"]
        if number != 31:  # zero pages are sampled, not counted
            assert level["size"] == stored
        assert level["packed_size"] == pytest.approx((tmp_path / f"out{number}").stat().st_size, rel=0.15)


def test_a_guest_that_does_not_say_what_its_pages_are_has_two_levels(
    qemu: Callable[[str, str], Path], run: Callable[..., Any]
) -> None:
    vmcore = qemu("bare-x86_64", "elf")
    done = run("size", "--json", vmcore)
    report = json.loads(done.out)
    assert [(level["level"], level["classes"]) for level in report["levels"]] == [(0, []), (1, ["zero"])]
    assert report["levels"][0]["size"] == report["ram_size"] > report["levels"][1]["size"] > 0
    assert done.code == 0
    assert done.err.startswith("pydump: warning: levels 0 and 1 only: no filter can find the ")


def test_the_table_names_its_columns(guest: Path, run: Callable[..., Any]) -> None:
    lines = run("size", guest).out.splitlines()
    assert lines[0].split()[:3] == ["level", "leaves", "out"]
    assert lines[1].split()[:3] == ["0", "nothing", "24640"]
    assert "free          22.2 MiB" in lines


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("0x1000", ["state present", "class none"]),
        ("4G", ["state beyond the end"]),
        ("0x7000000", ["state not RAM"]),
    ],
)
def test_what_is_known_of_an_address(address: str, expected: list[str], guest: Path, run: Callable[..., Any]) -> None:
    done = run("info", guest, "--paddr", address)
    assert done.code == 0
    shown = " ".join(done.out.split())
    for words in expected:
        assert words in shown


def test_a_page_that_was_excluded_has_its_class(guest: Path, run: Callable[..., Any], tmp_path: Path) -> None:
    import pydump

    assert run("dump", "-d", "16", guest, "small").code == 0
    with pydump.open(tmp_path / "small") as dump:
        first = next(iter(dump.image.excluded()))[0]
    found = json.loads(run("info", "small", "--paddr", hex(first), "--json").out)
    assert (found["state"], found["classes"], found["offset"]) == ("excluded", ["free"], None)
    found = json.loads(run("info", guest, "--paddr", hex(first), "--json").out)
    assert (found["state"], found["classes"]) == ("present", ["free"])


@pytest.mark.parametrize("kind", [("elf",), ("kdump", "--compression", "none")], ids=lambda kind: kind[0])
def test_an_address_is_found_in_the_file(
    kind: tuple[str, ...], guest: Path, run: Callable[..., Any], tmp_path: Path
) -> None:
    assert run("dump", guest, "out", "--format", *kind).code == 0
    banner = run("read", "out", "linux_banner", "64", "--symbol")
    assert banner.code == 0
    import pydump

    with pydump.open(tmp_path / "out") as dump:
        vaddr = dump.symbols().address("linux_banner")
    found = json.loads(run("info", "out", "--vaddr", hex(vaddr), "--json").out)
    assert found["vaddr"] == vaddr
    data = (tmp_path / "out").read_bytes()[found["offset"] : found["offset"] + found["size"]]
    assert b"Linux version 6.1.0-50-amd64" in data


def test_symbols_come_from_the_kernels_own_table(
    guest: Path, run: Callable[..., Any], refuse: Callable[..., str]
) -> None:
    """VMCOREINFO does not have linux_banner; Linux 6.0 and later lead to their table of symbols."""
    assert "no symbol 'no_such_thing'; check its name" in refuse(2, "read", guest, "no_such_thing", "8", "--symbol")
    text = run("read", guest, "linux_banner", "32", "--symbol", "--hex").out
    assert "Linux version 6." in text.replace("\n", "")


def test_a_map_by_class_adds_up_to_the_classes(guest: Path, run: Callable[..., Any]) -> None:
    report = json.loads(run("map", "--by", "class", "--json", guest).out)
    sums: dict[str, int] = {}
    for cell in report["cells"]:
        for name, size in cell["class_sizes"]:
            sums[name] = sums.get(name, 0) + size
    # The pages that makedumpfile 1.7.8 leaves out at levels 2, 8 and 16.
    assert {name: size // 4096 for name, size in sums.items() if size and name != "kernel, other"} == {
        "cache": 494,
        "user": 30,
        "free": 5696,
    }
    assert sum(sums.values()) == sum(cell["ram_size"] for cell in report["cells"])


def test_a_map_by_class_has_its_own_legend(guest: Path, run: Callable[..., Any], tmp_path: Path) -> None:
    shown = run("map", "--by", "class", guest).out
    for line in ("free", "kernel, other"):
        assert f"  {line}" in shown
    assert "compresses to under" not in shown
    assert run("map", "--by", "class", guest, "-o", "map.svg").code == 0
    assert ">free</text>" in (tmp_path / "map.svg").read_text()


def test_a_guest_without_classes_has_no_map_by_class(
    qemu: Callable[[str, str], Path], refuse: Callable[..., str]
) -> None:
    assert "no filter can find the free pages" in refuse(2, "map", "--by", "class", qemu("bare-x86_64", "elf"))


def test_comparing_a_filtered_dump_says_how_to_ignore_what_it_leaves_out(guest: Path, run: Callable[..., Any]) -> None:
    assert run("dump", "-d", "31", guest, "small").code == 0
    done = run("compare", guest, "small")
    assert done.code == 4
    assert done.out.splitlines()[-1].startswith("what both hold is the same; --ignore-excluded")
    assert run("compare", guest, "small", "--ignore-excluded").code == 0
