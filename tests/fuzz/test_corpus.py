"""What fuzzing has kept is read again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
#: Bytes of a harness's kept inputs.
MAX_CORPUS = 200 << 10


@pytest.mark.parametrize("harness", sorted(path.name for path in (HERE / "corpus").iterdir()))
def test_kept_inputs_give_a_result_or_a_pydump_error(harness: str) -> None:
    sizes = [path.stat().st_size for path in (HERE / "corpus" / harness).iterdir()]
    assert 0 < sum(sizes) <= MAX_CORPUS
    command = [sys.executable, HERE / "run.py", harness, "0"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
