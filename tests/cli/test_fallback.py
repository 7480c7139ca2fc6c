"""The dump that ``watch`` writes where the one that was asked for is refused."""

from __future__ import annotations

import pytest

from pydump.cli.fallback import simpler


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        ("--no-sync --scratch /tmp --json", []),
        ("-d 31 --no-sync", [("--no-sync", "-d 31")]),
        ("-d31 --workers 2", [("--workers 2", "-d31")]),
        ("-qd 31 -v", [("-q -v", "-d 31")]),
        ("--exclude=free,user --filter-anyway --nice", [("--nice", "--exclude=free,user --filter-anyway")]),
        ("--vmcoreinfo memory --arch x86_64 --hash sha256", [("--arch x86_64 --hash sha256", "--vmcoreinfo memory")]),
        (
            "--format elf --paging --timeout 9 --pause copy",
            [
                ("--format elf --timeout 9 --pause copy", "--paging"),
                ("--timeout 9 --pause copy", "--format elf"),
            ],
        ),
        ("--compression zlib --zlib-level 3 --max-rate 1M", [("--max-rate 1M", "--compression zlib --zlib-level 3")]),
        (
            "--ram-only --begin 0 --length 4K --no-vmcoreinfo",
            [("", "--ram-only --begin 0 --length 4K --no-vmcoreinfo")],
        ),
    ],
)
def test_what_the_dump_holds_is_left_out_first_and_then_its_format(words: str, steps: list[tuple[str, str]]) -> None:
    kept = tuple(words.split())
    for step in [*steps, (" ".join(kept), "") if not steps else (steps[-1][0], "")]:
        kept, left_out = simpler(kept, 2)
        assert (" ".join(kept), " ".join(left_out)) == step


def test_a_dump_that_fails_does_without_the_way_to_memory_that_was_named() -> None:
    words = ("-d", "31", "--qemu-access=shared", "--pause", "none")
    assert simpler(words, 1) == (("-d", "31", "--pause", "none"), ("--qemu-access=shared",))
    assert simpler(("-d", "31", "--scratch", "/tmp"), 1) == (("-d", "31", "--scratch", "/tmp"), ())
    for code in (0, 3, 130):
        assert simpler(words, code) == (words, ())
