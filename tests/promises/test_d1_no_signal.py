"""D1: a run that cannot learn says so: in its metrics, on the screen, and before it starts."""

from __future__ import annotations

import pytest
import torch
import verl.utils.config
from tensordict import NonTensorStack

from tests.bridge.configurations import compose
from tests.bridge.micro_batches import jagged
from tests.guards.test_bridge import LENGTHS, compute, make  # noqa: F401


def test_a_reward_that_is_always_zero_is_told_in_the_third_step(make, capsys) -> None:  # noqa: F811
    trainer = make()
    trainer.queue.columns["rm_scores"] = jagged([torch.zeros(n) for n in LENGTHS])
    wrong = {"reward_extra_info": {"verified": True, "outcome": "wrong"}}
    trainer.queue.columns["extra_fields"] = NonTensorStack(*[wrong] * len(LENGTHS))
    metrics = [compute(trainer) for trainer.global_steps in (1, 2, 3)]
    assert [step["train/groups_without_spread"] for step in metrics] == [1, 1, 1]
    assert [(step["train/groups_all_right"], step["train/groups_all_wrong"]) for step in metrics] == [(0, 1)] * 3
    said = capsys.readouterr().err
    assert "guard 'no_signal', step 3" in said
    assert 'ground truth: "0"' in said
    assert "outcome=wrong" in said


def test_one_response_a_prompt_is_a_fault_before_the_start() -> None:
    config = compose("+backend=cpu", "+algo=grpo", "actor_rollout_ref.rollout.n=1")
    with pytest.raises(ValueError, match=r"rollout\.n=1"):
        verl.utils.config.validate_config(config=config, use_reference_policy=False, use_critic=False)
