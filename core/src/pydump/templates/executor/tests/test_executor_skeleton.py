from __future__ import annotations

from typing import ClassVar

import pytest

from pydump.errors import PlanError
from pydump.interfaces.executor import Executor
from pydump.testing.executor import ExecutorTests
from pydump_executor_skeleton import SkeletonExecutor


class TestSkeleton(ExecutorTests):
    executor: ClassVar[type[Executor]] = SkeletonExecutor
    argument: ClassVar[str] = "2"


@pytest.mark.parametrize("argument", ["0", "x", "-1", "2 "])
def test_an_argument_that_is_not_a_number_of_workers_is_refused(argument: str) -> None:
    with pytest.raises(PlanError, match="is not a number of workers"):
        SkeletonExecutor.open(argument)
