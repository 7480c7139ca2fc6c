"""Prints the kernel's log: as lines, or as JSON; of a guest that runs as it is written."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Iterable
from dataclasses import asdict
from typing import Any

from pydump.cli.console import talk
from pydump.cli.render import SCHEMA
from pydump.kernel.log import Record, format_record
from pydump.model.findings import LogNotice


def print_lines(records: Iterable[Record]) -> None:
    """The log as ``dmesg`` prints it."""
    for record in records:
        print(format_record(record))  # every byte that a terminal would obey is escaped there


def print_json(records: Iterable[Record]) -> None:
    """An object whose ``records`` are objects, a line each, as they come."""
    before = head = (
        f'{{"schema": {SCHEMA}, "records": ['  # printed with the first record, which may be an error instead
    )
    for record in records:
        print(f"{before}\n  {json.dumps(_as_json(record))}", end="")
        before = ","
    print(f"{head}]}}" if before == head else "\n]}")


def print_followed(found: Generator[Record | LogNotice, None, None], *, as_json: bool) -> None:
    """Records as they come, until Ctrl-C, which is how this ends; as JSON an object on each line."""
    with contextlib.closing(found), contextlib.suppress(KeyboardInterrupt):
        for one in found:
            if as_json:
                value = {"notice": asdict(one)} if isinstance(one, LogNotice) else _as_json(one)
                print(json.dumps({"schema": SCHEMA, **value}), flush=True)
            elif isinstance(one, LogNotice):
                talk(_notice(one))
            else:
                print(format_record(one), flush=True)


def _notice(notice: LogNotice) -> str:
    if notice.kind == "reset":
        return "the guest was reset: its log begins anew"
    if notice.count == 1:
        return "a record was overwritten before it could be read"
    return f"{notice.count or 'some'} records were overwritten before they could be read"


def _as_json(record: Record) -> dict[str, Any]:
    return {**asdict(record), "fields": dict(record.fields)}
