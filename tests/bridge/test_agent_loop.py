"""Entropies between rollout and TransferQueue: verl's own output class and padding, with ours bound to them."""

from __future__ import annotations

import inspect
import math
import warnings
from typing import Any

import pytest
import torch
from verl.experimental.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopWorker
from verl.trainer.ppo import padding_utils

from verl_ext.bridge import agent_loop
from verl_ext.rollout.token_log_prob import joined


def output(log_probs: list[float] | None, mask: list[int], cls: type = AgentLoopOutput) -> Any:
    return cls(
        prompt_ids=[1, 2],
        response_ids=list(range(len(mask))),
        response_mask=mask,
        response_logprobs=log_probs,
        metrics=AgentLoopMetrics(),
    )


@pytest.fixture
def wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_loop, "_wanted", True)


@pytest.mark.usefixtures("wanted")
def test_the_row_gets_a_float32_field_as_long_as_its_response() -> None:
    row = output([*joined([-1.0, -2.0], [0.5, 0.25]), 0.0, *joined([-3.0], [2.0])], [1, 1, 0, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # pydantic warns where a value is not of the declared type
        fields = row.as_dict()
    assert fields["rollout_entropies"].dtype == torch.float32
    assert fields["rollout_entropies"].tolist() == [0.5, 0.25, 0.0, 2.0]
    assert fields["rollout_log_probs"].tolist() == [-1.0, -2.0, 0.0, -3.0]


@pytest.mark.usefixtures("wanted")
def test_a_row_without_log_probs_has_the_field_too() -> None:
    """A field that one row lacks is dropped from all rows."""
    assert [math.isnan(value) for value in output(None, [1, 1]).as_dict()["rollout_entropies"]] == [True, True]
    assert output(None, []).as_dict()["rollout_entropies"].shape == (0,)


@pytest.mark.usefixtures("wanted")
def test_a_users_own_output_class_carries_entropies_without_knowing_of_them() -> None:
    class Own(AgentLoopOutput):
        note: str = "mine"

    assert output(joined([-1.0], [0.5]), [1], Own).as_dict()["rollout_entropies"].tolist() == [0.5]


def test_nothing_is_added_where_entropies_are_not_wanted() -> None:
    assert "rollout_entropies" not in output([-1.0], [1]).as_dict()


def test_a_padding_row_is_as_short_as_its_response() -> None:
    """The trap: verl copies a row of 5 tokens and shortens the fields it knows to 1."""
    row = {
        "responses": torch.arange(5),
        "position_ids": torch.arange(7),
        "rollout_log_probs": torch.ones(5),
        "rollout_entropies": torch.ones(5),
    }
    template, tag = padding_utils.construct_minimal_padding_template(row, {}, eos_token_id=0)
    assert tag["is_padding"]
    assert template["rollout_entropies"].tolist() == template["rollout_log_probs"].tolist() == [0.0]
    assert template["rollout_entropies"].dtype == torch.float32
    del row["rollout_entropies"]
    assert "rollout_entropies" not in padding_utils.construct_minimal_padding_template(row, {}, eos_token_id=0)[0]


# --- contracts


def test_contract_verl_still_forgets_fields_that_it_does_not_know() -> None:
    """When this fails, verl pads unknown fields itself and `bind_padding` can go."""
    original = inspect.unwrap(padding_utils.construct_minimal_padding_template)
    row = {"responses": torch.arange(5), "position_ids": torch.arange(7), "rollout_entropies": torch.ones(5)}
    assert len(original(row, {}, eos_token_id=0)[0]["rollout_entropies"]) == 5


def test_contract_pydantic_still_makes_plain_floats_of_the_elements() -> None:
    """When this fails, `output_init` can go."""
    row = output(joined([-1.0], [0.5]), [1])
    assert type(row.response_logprobs[0]) is float


def test_contract_a_worker_is_made_with_the_whole_configuration() -> None:
    assert next(iter(list(inspect.signature(AgentLoopWorker.__init__).parameters)[1:])) == "config"


def test_contract_the_transfer_queue_worker_writes_what_as_dict_returns() -> None:
    from verl.trainer.ppo.v1 import agent_loop_tq

    assert "field = output.as_dict()" in inspect.getsource(agent_loop_tq)
