"""Single timings for a person to look at, with pytest-benchmark; the limits are checked by `python -m benchmarks`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import cases
from benchmarks.cases import Case
from benchmarks.workload import Workload, make_workload
from verl_ext.plugin import POLICY_LOSSES

LOSSES = [f"verl's {name}" for name in (cases.BASELINE, *cases.OTHERS)] + list(POLICY_LOSSES)


@pytest.fixture(scope="module", autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def batch() -> Workload:
    return make_workload(64, 2048, "cpu")


@pytest.mark.benchmark(group="losses, forward and backward, [64, 2048]")
@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str, batch: Workload, benchmark: BenchmarkFixture) -> None:
    benchmark(cases.loss_steps(batch)[name][0])


@pytest.mark.benchmark(group="controller, [64, 2048]")
@pytest.mark.parametrize("number", [0, 1], ids=["group ids", "segment ids"])
def test_controller(number: int, batch: Workload, benchmark: BenchmarkFixture) -> None:
    benchmark(list(cases.controller_cases(batch))[number].step)


@pytest.mark.benchmark(group="estimators, [1024, 8192]")
def test_erpo(benchmark: BenchmarkFixture) -> None:
    case: Case = next(cases.estimator_cases(make_workload(1024, 8192, "cpu")))
    benchmark.pedantic(case.step, rounds=5, warmup_rounds=1)
