"""The checks themselves, where they can be made without a GPU: on the CPU, and on results that are wrong."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from omegaconf import DictConfig

from tests.bridge.configurations import compose
from verl_ext.checks import fitness
from verl_ext.checks.methods import faults
from verl_ext.gpu_check import engine, kernel, methods, training
from verl_ext.gpu_check.engine import Pass, difference
from verl_ext.gpu_check.outcome import CheckError, SkipError
from verl_ext.gpu_check.table import CHECKS
from verl_ext.toy.assets import Assets

# --- losses and estimators


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "ROWS", 12)
    monkeypatch.setattr(methods, "EXAMPLES", 1)


@pytest.mark.slow
def test_losses_on_the_cpu_are_within_the_tolerance() -> None:
    figures = methods.losses("cpu")
    assert figures["calls"] > 100
    assert 0 < figures["largest_share_of_tolerance"] < 1


def test_a_few_losses_on_the_cpu_are_within_the_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "subjects", only(methods.subjects, "dcpo", "grpo_s"))
    figures = methods.losses("cpu")
    assert figures["calls"] >= 2 * (5 + 1)  # of five aggregations and one, with and without autocast
    assert 0 < figures["largest_share_of_tolerance"] < 1


def test_estimators_on_the_cpu_are_within_the_tolerance() -> None:
    figures = methods.estimators("cpu")
    assert figures["calls"] > 10
    assert figures["largest_share_of_tolerance"] < 1


def test_a_loss_that_the_device_computes_wrongly_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is off by a thousandth, ten times the tolerance."""
    original = methods.LossOn.run

    def off(self: methods.LossOn, case: object, batch: object = None, **arguments: object) -> object:
        result = original(self, case, batch, **arguments)
        wrong = self.name == "sspo" and batch is not None and batch["log_prob"].dtype == torch.float32
        return dataclasses.replace(result, value=result.value * 1.002 + 0.001) if wrong else result

    monkeypatch.setattr(methods.LossOn, "run", off)
    monkeypatch.setattr(methods, "subjects", only(methods.subjects, "sspo", "dcpo"))
    with pytest.raises(CheckError, match="sspo") as caught:
        methods.losses("cpu")
    assert "dcpo" not in str(caught.value)


def only(original, *names):  # type: ignore[no-untyped-def]
    return lambda kind, device: [one for one in original(kind, device) if one.name in names]


def test_the_battery_hands_every_call_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """`moved` stands between the battery and the method; what it returns is what the method gets."""
    calls = []
    original = methods.moved
    monkeypatch.setattr(methods, "subjects", only(methods.subjects, "espo"))
    monkeypatch.setattr(methods, "moved", lambda batch, device: calls.append(device) or original(batch, device))
    figures = methods.conformance("cpu")
    assert figures["cells"] == 16 + 7  # of 17 and 7 columns; host_syncs is left out
    assert len(calls) > 50
    assert set(calls) == {"cpu"}


def test_excess_is_a_share_of_the_tolerance() -> None:
    """1e-4 of a value of 10 and 2e-5 of the greatest, 10: 1.2e-3 in all."""
    wanted = torch.tensor([10.0, 0.0], dtype=torch.float64)
    assert methods.excess(wanted + 1.2e-3 * torch.tensor([1.0, 0.0]), wanted) == pytest.approx(1, rel=1e-3)
    assert methods.excess(torch.tensor([math.nan, 0.0]), wanted) == math.inf


# --- the entropy kernel


def test_the_reference_of_the_entropies() -> None:
    """ln 4 for four equal logits; ln 2 where half of them cannot be drawn; 0 for certainty."""
    inf = float("-inf")
    logits = torch.tensor([[1.0, 1, 1, 1], [inf, inf, 3, 3], [0, inf, inf, inf]])
    assert kernel.reference(logits).tolist() == pytest.approx([math.log(4), math.log(2), 0], abs=1e-12)


def test_the_pass_without_triton_is_within_the_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "VOCABULARIES", (2, 259, 8193))
    assert kernel.check("cpu")["largest_difference"] < kernel.TOLERANCE


def test_a_wrong_entropy_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "VOCABULARIES", (259,))
    monkeypatch.setattr(kernel, "entropies", lambda logits: kernel.reference(logits) + 1e-3)
    with pytest.raises(CheckError, match=r"259 .*: off by 0.001 nats"):
        kernel.check("cpu")


# --- verl's engine


def passed(scale: float = 1.0, loss: float = 2.0) -> Pass:
    return Pass(loss, {"a": torch.tensor([3.0, 0.0]) * scale, "b": torch.tensor([4.0])})


def test_differences_of_two_passes() -> None:
    """The norm is 5, the difference 0.03: 0.006 of it."""
    found = difference(passed(), passed(1.01, 2.002), 0.01)
    assert found == pytest.approx({"loss": 2.0, "loss_difference": 0.001, "gradient_difference": 0.006}, rel=1e-5)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (passed(1.1), "gradient_difference': 0.06"),
        (passed(loss=2.1), "loss_difference': 0.05"),
        (Pass(2.0, {"a": torch.zeros(2)}), "other parameters"),
    ],
)
def test_two_passes_that_differ(other: Pass, words: str) -> None:
    with pytest.raises(CheckError, match=words):
        difference(passed(), other, 0.01)


def test_gradients_of_zero_agree_about_nothing() -> None:
    nothing = Pass(0.0, {"a": torch.zeros(2)})
    with pytest.raises(CheckError, match="agreeing means nothing"):
        difference(nothing, nothing, 0.01)


def test_ulysses_is_nothing_for_a_cpu() -> None:
    with pytest.raises(SkipError, match="needs GPUs"):
        engine.ulysses("cpu")


@pytest.mark.slow
def test_packed_and_padded_agree_in_verls_engine_on_the_cpu() -> None:
    """torch's attention, which transformers gives a mask that keeps packed rows apart."""
    (figures,) = engine.remove_padding("cpu").values()
    assert figures["gradient_difference"] < 1e-4


@pytest.mark.slow
def test_verls_torch_kernel_agrees_in_its_engine_on_the_cpu() -> None:
    assert engine.fused_kernels("cpu")["torch"]["gradient_difference"] < 1e-4


@pytest.mark.slow
def test_a_rank_that_fails_is_reported_with_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "model", lambda folder, tied: "/no/such/model")
    with pytest.raises(CheckError, match=r"rank 0 ended with status 1[\s\S]*no/such/model"):
        engine.fused_kernels("cpu")


# --- the trainer


def composed(*further: str) -> DictConfig:
    from pathlib import Path

    assets = Assets.under(Path("assets"))
    arguments = training.arguments(assets, 2, Path("out"))
    return compose(*[each for each in arguments if not each.endswith("use_dynamic_bsz=true")], *further)


@pytest.mark.parametrize("further", [[], [training.SOURCE]])
def test_the_trainers_arguments_have_no_fault(further: list[str]) -> None:
    config = composed(*further)
    assert [*faults(config), *fitness.faults(config)] == []
    assert config.trainer.device == "cuda"
    assert config.trainer.total_training_steps == 2


def steps(*log_probs: float) -> list[dict[str, float]]:
    both = dict.fromkeys(training.LIMITS)
    return [{**dict.fromkeys(both, value), "actor/grad_norm": 1.0} for value in log_probs]


def test_stale_weights_fail_the_weight_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "run", lambda number, further: steps(0.01, 0.02, 0.01))
    assert training.weight_sync("cuda")["grad_norm"] == [1.0, 1.0, 1.0]
    monkeypatch.setattr(training, "run", lambda number, further: steps(0.01, 0.02, 1.4))
    with pytest.raises(CheckError, match="vLLM has other weights"):
        training.weight_sync("cuda")
    monkeypatch.setattr(training, "run", lambda number, further: steps(0.01, 0.02))
    with pytest.raises(CheckError, match="2 steps of 3"):
        training.weight_sync("cuda")


def test_a_figure_that_is_not_finite_fails_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("actor/pg_loss", "actor/grad_norm", "critic/rewards/mean", "actor/espo/group1/entropy", "timing_s/step")
    good = [dict.fromkeys(names, 1.0 + number) for number in range(20)]
    monkeypatch.setattr(training, "run", lambda number, further: good)
    assert training.training("cuda")["reward_last_5"] == 18.0
    good[7]["actor/pg_loss"] = math.nan
    with pytest.raises(CheckError, match="actor/pg_loss is not finite"):
        training.training("cuda")


def test_the_page_names_every_check(pytestconfig: pytest.Config) -> None:
    page = (pytestconfig.rootpath / "docs" / "gpu-check.md").read_text(encoding="utf-8")
    assert [name for name in CHECKS if f"| `{name}` |" not in page] == []
    for check in CHECKS.values():
        assert callable(check.load())
        assert check.says in page, check.name
