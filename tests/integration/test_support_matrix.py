"""The support matrix has every cell, and some of them are asked for again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cells import ASK, FORMS, NAMES, File, claims, forms, make
from lab.boot import Guest
from support_matrix import PAGE, REASONS, cell, rows, wanted

#: Of each program, answers that cost little: right ones and wrong ones.
ASKED = [
    ("s390x", "QEMU's ELF", "libkdumpfile"),
    ("arm", "kdump, `--flatten`", "libkdumpfile"),
    ("i386", "ELF", "drgn"),
    ("riscv64", "kdump, `--flatten`", "drgn"),
    ("arm", "ELF, `--paging`", "drgn"),
    ("arm", "QEMU's ELF", "crash"),
    ("arm", "QEMU's ELF", "makedumpfile"),
    ("x86_64", "kdump", "makedumpfile"),
    ("aarch64", "ELF, `--paging`", "gdb"),
    ("ppc64", "ELF", "gdb"),
    ("ppc64", "QEMU's ELF", "readelf"),
    ("s390x", "ELF", "readelf"),
    ("arm", "ELF", "Volatility"),
    ("i386", "LiME", "Volatility"),
    ("arm", "raw", "Volatility"),
]


@pytest.fixture(scope="module")
def page() -> dict[tuple[str, str], dict[str, str]]:
    """What the page says."""
    return rows(PAGE.read_text())


def test_every_program_was_asked_about_every_file_that_it_reads(page: dict[tuple[str, str], dict[str, str]]) -> None:
    assert list(page) == list(wanted())
    for arch in {arch for arch, _, _ in ASKED}:
        for form in forms(arch):
            assert list(page[NAMES.get(arch, arch), form]) == claims(arch, form)


def test_every_reason_is_used_and_is_in_the_page(page: dict[tuple[str, str], dict[str, str]]) -> None:
    used = {(judge, said) for cells in page.values() for judge, said in cells.items() if said != "yes"}
    assert used == {(reason["judge"], f"no, {i}") for i, reason in enumerate(REASONS, 1)}
    text = " ".join(PAGE.read_text().split())
    assert all(" ".join(reason["why"].split()) in text for reason in REASONS)


@pytest.fixture(scope="module")
def made(guest: Callable[[str], Guest], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], File]:
    """Makes a file of a guest."""
    work = tmp_path_factory.mktemp("matrix")
    return lambda arch, form: make(guest(arch), form, work)


@pytest.mark.parametrize(("arch", "form", "judge"), ASKED)
def test_the_answer_is_what_the_page_says(
    arch: str,
    form: str,
    judge: str,
    made: Callable[[str, str], File],
    page: dict[tuple[str, str], dict[str, str]],
) -> None:
    assert judge in FORMS[form][1]
    said = ASK[judge](made(arch, form))
    assert cell(judge, f"{arch} {form}", said) == page[NAMES.get(arch, arch), form][judge], said
