"""Prints the kernel's log: as lines, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict

from pydump.cli.render import SCHEMA
from pydump.kernel.log import Record, format_record


def print_lines(records: Iterable[Record]) -> None:
    """The log as ``dmesg`` prints it."""
    for record in records:
        print(format_record(record))  # every byte that a terminal would obey is escaped there


def print_json(records: Iterable[Record]) -> None:
    """An object whose ``records`` are objects, a line each, as they come."""
    print(f'{{"schema": {SCHEMA}, "records": [', end="")
    comma = ""
    for record in records:
        print(f"{comma}\n  {json.dumps({**asdict(record), 'fields': dict(record.fields)})}", end="")
        comma = ","
    print("\n]}" if comma else "]}")
