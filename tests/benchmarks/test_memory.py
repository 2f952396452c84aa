"""The limit on memory, which unlike a time is the same in every run."""

import pytest
import torch

from benchmarks.cases import LIMITED, MEMORY_LIMIT, loss_cases, loss_steps
from benchmarks.memory import peak_bytes
from benchmarks.workload import make_workload
from verl_ext.plugin import POLICY_LOSSES

UNIT = 4 * 1024 * 1024


def test_what_lives_at_once_is_counted() -> None:
    values = torch.ones(1024, 1024)

    def step() -> torch.Tensor:
        first = values + 1  # 1
        second = first * 2  # 2
        del first  # 1
        return second.square().sum() + (second + values).sum()  # 2, then 1, then 2

    assert peak_bytes(step) / UNIT == pytest.approx(2, abs=0.01)


def test_what_autograd_saves_is_counted() -> None:
    values = torch.ones(1024, 1024, requires_grad=True)

    def step() -> torch.Tensor:
        chain = values
        for _ in range(5):
            chain = chain.exp()  # each result is saved
        return chain

    assert peak_bytes(step) / UNIT == pytest.approx(5, abs=0.01)


@pytest.mark.parametrize("name", LIMITED)
def test_losses_keep_within_their_memory(name: str) -> None:
    batch = make_workload(16, 2048, "cpu")
    step, limit = loss_steps(batch)[name]
    assert limit == MEMORY_LIMIT
    assert peak_bytes(step) / (4 * 16 * 2048) <= limit


def test_every_loss_is_measured() -> None:
    batch = make_workload(2, 8, "cpu")
    assert {case.what for case in loss_cases(batch)} >= set(POLICY_LOSSES)
    for case in loss_cases(batch):
        gradient = case.step()
        assert isinstance(gradient, torch.Tensor)
        assert gradient.isfinite().all()
        assert gradient.any()
