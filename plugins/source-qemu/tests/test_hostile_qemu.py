"""Whatever answers at a monitor's address: an error in one line, in bounded time and memory, with no process left."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

#: Where in a capture the server begins to misbehave: how it is captured, the command, and the how manieth.
TALK = [
    ("stream", "greeting", 1),
    ("stream", "qmp_capabilities", 1),
    ("stream", "query-commands", 1),
    ("stream", "query-chardev", 1),
    ("stream", "query-memdev", 1),
    ("stream", "query-dump", 1),
    ("stream", "query-status", 1),
    ("stream", "qom-get", 1),
    ("stream", "query-dump", 2),
    ("process", "gpa2hva", 1),
    ("process", "gpa2hva", 13),
    ("process", "query-status", 6),
    ("process", "query-migrate", 1),
    ("snapshot", "query-migrate-parameters", 1),
    ("snapshot", "query-target", 1),
    ("snapshot", "qom-get", 2),
    ("snapshot", "query-memory-devices", 1),
    ("snapshot", "info", 1),
    ("snapshot", "query-migrate", 1),
]
#: The same for commands that return nothing.
ORDERS = [
    ("stream", "object-add", 1),
    ("stream", "getfd", 1),
    ("stream", "dump-guest-memory", 1),
    ("stream", "dump-guest-memory", 3),
    ("stream", "object-del", 1),
    ("process", "stop", 1),
    ("process", "cont", 1),
    ("snapshot by a dump", "stop", 1),
    ("snapshot", "migrate-set-capabilities", 1),
    ("snapshot", "migrate-set-parameters", 1),
    ("snapshot", "migrate", 1),
    ("snapshot", "migrate-set-capabilities", 2),
]
STREAMS = [("stream", "stream", 1), ("stream", "stream", 3), ("snapshot", "stream", 2)]
STREAMS += [("snapshot by a dump", "stream", 3)]
MANNERS = ["silence", "close", "endless line", "flood", "drip", "wrong type"]
WRONG = ["deep", "list", "text", "wrong member", "no member"]
CASES = [(*place, manner) for place in TALK + ORDERS + STREAMS for manner in MANNERS]
CASES += [(*place, manner) for place in TALK for manner in WRONG]
HONEST = [(way, "", 0, "") for way in ("stream", "process", "copy", "snapshot", "snapshot by a dump")]
#: What a server that goes wrong at the end, or gives another value of the right type, does not change.
HARMLESS = {"object-del", "qmp_capabilities"}
#: Captures at a time; most of them wait.
WORKERS = 14
#: Seconds that a capture may take, on a busy machine, where QEMU may take one to answer.
MAX_SECONDS = 20
MAX_MEMORY = 200 << 20


@pytest.fixture(scope="module")
def results() -> Iterator[dict[Any, Future[dict[str, Any]]]]:
    """How each case goes; they run side by side, in processes that each run one after the other."""
    cases: queue.SimpleQueue[Any] = queue.SimpleQueue()
    results: dict[Any, Future[dict[str, Any]]] = {case: Future() for case in HONEST + CASES}
    for case in results:
        cases.put(case)

    def work() -> None:
        command = [sys.executable, Path(__file__).parents[3] / "tests/hostile_qemu.py"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdin
            assert worker.stdout
            while True:
                try:
                    case = cases.get_nowait()
                except queue.Empty:
                    break
                try:
                    print(json.dumps(case), file=worker.stdin, flush=True)
                    results[case].set_result(json.loads(worker.stdout.readline()))
                except (OSError, ValueError) as error:
                    results[case].set_exception(error)
            worker.stdin.close()

    threads = [threading.Thread(target=work) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    yield results
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("case", HONEST, ids=lambda case: case[0])
def test_the_server_is_like_qemu(results: dict[Any, Future[dict[str, Any]]], case: Any) -> None:
    result = results[case].result(120)
    assert (result["kind"], result["same"], result["left"]) == ("done", True, 0), result


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_a_server_that_misbehaves_is_an_error(results: dict[Any, Future[dict[str, Any]]], case: Any) -> None:
    result = results[case].result(120)
    assert result["reached"], result
    assert result["kind"] in ("SourceError", "ImpossibleError", "CommandError", "done"), result
    assert result["kind"] != "done" or result["same"], result
    if case[3] in MANNERS and case[1] not in HARMLESS:
        assert result["kind"] != "done", result
    assert "\n" not in result["message"]
    assert len(result["message"]) < 1000
    assert result["left"] == 0, "a watchdog"
    assert result["seconds"] < MAX_SECONDS
    assert result["memory"] < MAX_MEMORY
