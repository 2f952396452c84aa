"""The report of what really ran, and its comparison with the configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import verl.workers.utils.losses as upstream
from omegaconf import DictConfig
from verl.trainer.ppo import core_algos

from tests.bridge.configurations import compose
from tests.bridge.micro_batches import PROMPT, actor, jagged, micro_batch
from verl_ext.bridge import execution, policy_loss
from verl_ext.bridge.execution import CHECKSUM_METRIC, ExecutionMismatchError, checksum, compare, identity
from verl_ext.config import ESPOLossConfig

REGISTRY = core_algos.POLICY_LOSS_REGISTRY


@pytest.fixture(scope="module")
def config() -> DictConfig:
    return compose("+backend=cpu", "+algo=espo")


def ran(config: DictConfig) -> float:
    from verl.utils.config import omega_conf_to_dataclass

    return checksum(identity(omega_conf_to_dataclass(config.actor_rollout_ref.actor)))


def test_identity_names_loss_function_hyper_parameters_and_version() -> None:
    what = identity(actor("espo"))
    assert what["loss"] == "espo"
    assert what["function"] == "verl_ext.losses.espo.espo_loss"
    assert what["hyper_parameters"]["alpha"] == 0.02
    assert what["hyper_parameters"]["loss_agg_mode"] == "seq-mean-token-mean"
    assert what["verl_ext"]
    json.dumps(what)


def test_the_checksum_tells_hyper_parameters_functions_and_versions_apart() -> None:
    what = identity(actor("espo"))
    changed = [
        {**what, "verl_ext": "0.0.9"},
        {**what, "function": "elsewhere.espo_loss"},
        {**what, "hyper_parameters": {**what["hyper_parameters"], "alpha": 0.2}},
        identity(actor("vanilla")),
    ]
    assert len({checksum(what), *map(checksum, changed)}) == 5
    reordered = dict(reversed(what.items()))
    assert checksum(reordered) == checksum(what)


def test_the_mean_of_equal_checksums_is_exact_in_float32() -> None:
    value = checksum(identity(actor("espo")))
    assert value == int(value) < 2**24
    assert float(torch.full((3,), value, dtype=torch.float32).mean()) == value


def test_the_configured_loss_passes_and_its_metric_is_taken_out(config: DictConfig) -> None:
    metrics = {CHECKSUM_METRIC: ran(config), "actor/pg_loss": 0.5}
    compare(metrics, config)
    assert metrics == {"actor/pg_loss": 0.5}


def test_other_hyper_parameters_in_the_workers_end_the_run(config: DictConfig) -> None:
    other = compose("+backend=cpu", "+algo=espo", "+actor_rollout_ref.actor.policy_loss.alpha=0.2")
    with pytest.raises(ExecutionMismatchError, match="another policy loss") as caught:
        compare({CHECKSUM_METRIC: ran(other)}, config)
    assert "'alpha': 0.02" in str(caught.value)


def test_a_replaced_registry_entry_in_the_workers_ends_the_run(
    config: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as worker:
        worker.setitem(REGISTRY, "espo", core_algos.compute_policy_loss_vanilla)
        value = ran(config)
    with pytest.raises(ExecutionMismatchError):
        compare({CHECKSUM_METRIC: value}, config)


def test_workers_that_report_nothing_end_the_run(config: DictConfig) -> None:
    with pytest.raises(ExecutionMismatchError, match="not loaded in them"):
        compare({"actor/pg_loss": 0.5}, config)


@pytest.fixture
def bound() -> Iterator[Any]:
    """`ppo_loss` bound anew, as in a process that has not printed its line yet."""

    class Module:
        ppo_loss = staticmethod(upstream.ppo_loss)

    policy_loss.bind(Module)  # type: ignore[arg-type]
    return Module


def lines(text: str) -> list[dict[str, Any]]:
    start = f"{execution.PREFIX} "
    return [json.loads(line.removeprefix(start)) for line in text.splitlines() if line.startswith(start)]


def test_the_line_is_printed_once_and_the_metric_comes_with_every_call(
    bound: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    config = actor("espo")
    data, output = micro_batch([3, 2])
    values = [bound.ppo_loss(config, output, data)[1][CHECKSUM_METRIC].values for _ in range(3)]
    (line,) = lines(capsys.readouterr().out)
    assert line["loss"] == "espo"
    assert "entropy" in line["fields"]
    assert line["pid"] > 0
    assert values == [[checksum(identity(config))]] * 3


def on_policy(noise: float) -> tuple[Any, dict[str, Any]]:
    """A micro-batch whose log-ratio is `noise` at the last response token of row 1 and 0 elsewhere."""
    data, _ = micro_batch([3, 2])
    rows = [torch.cat([torch.zeros(PROMPT - 1), old, torch.zeros(1)]) for old in data["old_log_probs"].unbind()]
    rows[1][PROMPT] += noise
    return data, {"log_probs": jagged(rows).requires_grad_()}


@pytest.mark.parametrize(("noise", "warned"), [(0.0, False), (0.04, False), (-0.06, True)])
def test_rounding_noise_is_measured_and_warned_about(
    noise: float, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """vanilla's clip width is 0.2, so the limit is 0.2 / 4 = 0.05."""
    data, output = on_policy(noise)
    report = execution.ExecutionReport()
    report.after_call(actor("vanilla"), output, data, {})
    printed = capsys.readouterr()
    assert lines(printed.out)[0]["on_policy_ratio_noise"] == pytest.approx(abs(noise), abs=1e-6)
    assert ("more than a quarter of the clip width 0.2" in printed.err) is warned


def test_the_smallest_adaptive_width_decides(capsys: pytest.CaptureFixture[str]) -> None:
    """Widths that ESPO reports, a list as verl's Metric holds them: 0.01 / 4 < 0.003 < 0.2 / 4."""
    data, output = on_policy(0.003)
    metrics = {"actor/espo/group0/eps": 0.2, "actor/espo/group1/eps": 0.01, "actor/espo/group2/eps": 0.0}
    execution.ExecutionReport().after_call(actor("espo"), output, data, metrics)
    assert "clip width 0.01" in capsys.readouterr().err


def test_a_token_that_does_not_count_is_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """A tool's answer inside a response: masked, and its log-prob means nothing."""
    data, output = on_policy(0.5)
    data["response_mask"] = jagged([torch.ones(3, dtype=torch.long), torch.tensor([1, 0])])
    execution.ExecutionReport().after_call(actor("vanilla"), output, data, {})
    assert lines(capsys.readouterr().out)[0]["on_policy_ratio_noise"] == pytest.approx(0, abs=1e-6)


def test_padding_rows_say_nothing_about_noise(capsys: pytest.CaptureFixture[str]) -> None:
    data, output = on_policy(0.5)
    data["response_mask"] = jagged([torch.zeros(3, dtype=torch.long), torch.zeros(2, dtype=torch.long)])
    execution.ExecutionReport().after_call(actor("vanilla"), output, data, {})
    printed = capsys.readouterr()
    assert lines(printed.out)[0]["on_policy_ratio_noise"] is None
    assert printed.err == ""


def test_only_the_default_loss_config_is_needed_to_name_the_loss() -> None:
    assert ESPOLossConfig().loss_mode == "espo"
    assert identity(actor("vanilla"))["function"].endswith("core_algos.compute_policy_loss_vanilla")


@pytest.mark.parametrize(
    ("rewards", "gradient", "called"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_distillation_alone_runs_no_policy_loss(
    config: DictConfig, rewards: bool, gradient: bool, called: bool
) -> None:
    """verl/trainer/distillation/losses.py: then there is nothing that workers could report."""
    from omegaconf import OmegaConf

    loss = {"use_task_rewards": rewards, "use_policy_gradient": gradient}
    distilled = OmegaConf.merge(config, {"distillation": {"enabled": True, "distillation_loss": loss}})
    assert execution.expected(distilled) is called
    assert execution.expected(config)
