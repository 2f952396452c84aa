"""The compatibility table: that the entries are true, and the tests they name."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from verl.trainer.distillation import losses as distillation
from verl.trainer.ppo.core_algos import agg_loss, kl_penalty
from verl.utils import tensordict_utils as tu
from verl.utils.experimental.torch_functional import FusedLinearForPPO
from verl.workers import engine_workers
from verl.workers.config import DistillationConfig, DistillationLossConfig, FSDPActorConfig

from tests.bridge.configurations import compose
from tests.bridge.micro_batches import PROMPT, actor, jagged, micro_batch
from tools.pages import compatibility as page
from tools.pages.compatibility_entries import (
    COLUMNS,
    ESTIMATORS,
    FEATURES,
    KINDS,
    LOSSES,
    NO_ENTROPIES,
    ROLLOUT,
    Feature,
)
from verl_ext import plugin
from verl_ext.checks import methods

ROOT = Path(__file__).resolve().parents[1]
ACTOR = "actor_rollout_ref.actor"
LOSS = f"{ACTOR}.policy_loss"
ABSENT = object()
LENGTHS = [3, 5, 2]
MODES = {name: loss.aggregations[0] for name, loss in plugin.POLICY_LOSSES.items()}

every_loss = pytest.mark.parametrize("name", LOSSES)


# --- the entries


def test_every_feature_has_each_column_once() -> None:
    for feature in FEATURES:
        assert sorted(column for cell in feature.cells for column in cell.columns) == sorted(COLUMNS), feature.title
        assert {cell.kind for cell in feature.cells} <= set(KINDS)
        assert all(cell.evidence for cell in feature.cells)


def test_every_named_test_exists() -> None:
    named = {test for feature in FEATURES for cell in feature.cells if cell.kind == "tested" for test in cell.evidence}
    assert len(named) > 10
    absent = [test for test in named if test.partition("::")[2] not in functions(test.partition("::")[0])]
    assert absent == []


@cache
def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_a_line_that_verl_no_longer_has_is_an_error() -> None:
    assert page.located("workers/utils/losses.py: def ppo_loss(")[1] > 50
    with pytest.raises(ValueError, match=r"no line with 'def no_such_loss\('"):
        page.located("workers/utils/losses.py: def no_such_loss(")


# --- each cell, on a composed configuration


@cache
def composed(preset: str, backend: str) -> DictConfig:
    name = "ppo_megatron_trainer" if backend == "megatron" else "ppo_trainer"
    return compose(f"+backend={backend}", f"+algo={preset}", name=name)


@contextmanager
def changed(preset: str, settings: dict[str, Any]) -> Iterator[DictConfig]:
    """A preset on GPUs with these settings, which are taken back afterwards: a copy would cost more than the checks."""
    settings = dict(settings)
    config = composed(preset, settings.pop("backend", "fsdp"))
    before = [(key, OmegaConf.select(config, key, default=ABSENT)) for key in settings]
    try:
        for key, value in settings.items():
            OmegaConf.update(config, key, value, force_add=True)
        yield config
    finally:
        for key, value in before:
            if value is not ABSENT:
                OmegaConf.update(config, key, value)
                continue
            parent, _, last = key.rpartition(".")
            with open_dict(config):
                del OmegaConf.select(config, parent)[last]


def faults_of(preset: str, settings: dict[str, Any]) -> list[str]:
    """What `methods.ignored` finds."""
    with changed(preset, settings) as config:
        return methods.ignored(config)


def presets(feature: Feature, column: str) -> list[tuple[str, dict[str, Any]]]:
    """Presets that a column stands for; where an estimator is meant the loss is verl's, and the other way round."""
    if column == ESTIMATORS:
        verls = {f"{LOSS}._target_": "verl.workers.config.PolicyLossConfig", f"{LOSS}.loss_mode": "vanilla"}
        return [(name, verls) for name in feature.estimators]
    if column == ROLLOUT:
        return [("espo", {"algorithm.verl_ext": {"entropy_source": "rollout"}})]
    return [(column, {"algorithm.adv_estimator": "grpo"})]


def found(config: DictConfig) -> list[str]:
    return list(dict.fromkeys([*methods.faults(config), *methods.ignored(config)]))


@pytest.mark.parametrize("column", COLUMNS)
def test_what_is_refused_is_refused_and_all_else_composes(column: str) -> None:
    for feature in FEATURES:
        cell = page.cell_of(feature, column)
        for preset, further in presets(feature, column):
            with changed(preset, {**further, **feature.settings_in(column)}) as config:
                faults = found(config)
            if cell.kind == "refused":
                assert any(cell.evidence[0] in fault for fault in faults), (feature.title, preset, faults)
            elif cell.kind != "apart" or column in LOSSES:
                assert faults == [], (feature.title, preset, faults)


def test_presets_of_our_methods_have_no_such_fault() -> None:
    for preset in {*plugin.POLICY_LOSSES, *plugin.ESTIMATORS, "lpo"}:
        assert methods.ignored(composed(preset, "fsdp")) == [], preset


def test_verls_own_methods_are_left_alone() -> None:
    """Whatever a run sets that names nothing of ours."""
    settings = {
        f"{ACTOR}.clip_ratio_c": 10.0,
        f"{ACTOR}.clip_ratio": 0.3,
        f"{ACTOR}.tau_pos": 2.0,
        f"{LOSS}.ppo_kl_coef": 1.0,
        "algorithm.gamma": 0.9,
        "critic.enable": True,
        "trainer.use_v1": False,
        "actor_rollout_ref.model.use_fused_kernels": True,
    }
    assert faults_of("grpo", settings) == []


# preset, settings, the one sentence that they give
SENTENCES = {
    "clip_ratio": ("tepo", {f"{ACTOR}.clip_ratio": 0.1}, "clip_ratio=0.1: not read, as clip_ratio_low=0.2 and"),
    "clip_ratio_low of espo": ("espo", {f"{ACTOR}.clip_ratio_low": 3e-4}, "clip_ratio_low=0.0003: espo with clip=adap"),
    "unclipped": (
        "tepo",
        {f"{ACTOR}.clip_ratio_high": 0.28, f"{LOSS}.clip": "none"},
        "clip_ratio_high=0.28: tepo with clip=none does not clip by it",
    ),
    "dual clip": ("steer", {f"{ACTOR}.clip_ratio_c": 1.0}, "clip_ratio_c=1: the dual clip of steer must be above 1"),
    "norm": ("tepo", {f"{ACTOR}.loss_scale_factor": 9}, "set loss_agg_mode=seq-mean-token-sum-norm or leave it out"),
    "no norm": ("espo", {f"{ACTOR}.loss_scale_factor": 9}, "espo has no use for it"),
    "sapo": ("espo", {f"{ACTOR}.tau_neg": 2.0}, "tau_neg=2: read by sapo, not by espo; leave it at 1.05"),
    "loss_type": (
        "espo",
        {"algorithm.rollout_correction.loss_type": "reinforce"},
        "loss_type=reinforce: read by loss_mode=bypass_mode",
    ),
    "node": (
        "espo",
        {f"{LOSS}.rollout_correction": {"rollout_is": "token"}},
        "policy_loss.rollout_correction: read by loss_mode=bypass_mode, not by espo",
    ),
    "no log-probs": (
        "tepo",
        {
            "algorithm.rollout_correction.rollout_rs": "seq_mean_k1",
            "actor_rollout_ref.rollout.calculate_log_probs": False,
        },
        "rollout_rs=seq_mean_k1: not computed with actor_rollout_ref.rollout.calculate_log_probs=false",
    ),
    "KL in the reward": (
        "espo",
        {"algorithm.use_kl_in_reward": True, "algorithm.espo": {"failed": "incorrect"}},
        "espo with failed=incorrect takes a reward above 0 for a right answer",
    ),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_each_refusal_is_one_sentence_that_says_what_to_do(case: str) -> None:
    preset, settings, part = SENTENCES[case]
    (fault,) = faults_of(preset, settings)
    assert part in fault


def test_what_is_read_is_not_refused() -> None:
    widths = {f"{ACTOR}.clip_ratio_low": 0.1, f"{ACTOR}.clip_ratio_high": 0.1}
    assert faults_of("espo", {**widths, f"{LOSS}.clip": "fixed"}) == []
    assert faults_of("sspo", {**widths, f"{LOSS}.entropy_clip": False}) == []
    both = {f"{ACTOR}.clip_ratio_low": None, f"{ACTOR}.clip_ratio_high": None, f"{ACTOR}.clip_ratio": 0.1}
    assert faults_of("dcpo", both) == []
    norm = {f"{ACTOR}.loss_agg_mode": "seq-mean-token-sum-norm", f"{ACTOR}.loss_scale_factor": 9}
    assert faults_of("tepo", norm) == []
    fused, fp32 = "actor_rollout_ref.model.use_fused_kernels", f"{ACTOR}.fsdp_config.mixed_precision.param_dtype"
    assert faults_of("espo", {fused: True, fp32: "fp32"}) == []
    bypass = {fused: True, "algorithm.rollout_correction.bypass_mode": True}
    assert faults_of("espo", bypass) == []  # its entropies are the rollout's


def test_contract_keys_and_defaults_are_those_of_verls_yaml() -> None:
    """The faults compare with the defaults of the classes; what people leave alone has those of the YAML."""
    actor_node = compose().actor_rollout_ref.actor
    for key in ("clip_ratio", "clip_ratio_low", "clip_ratio_high", "clip_ratio_c", "tau_pos", "tau_neg"):
        default = next(field.default for field in dataclasses.fields(FSDPActorConfig) if field.name == key)
        assert actor_node[key] == default, key
    assert actor_node.loss_scale_factor is None


# --- what verl adds, and what it hands to a loss


def batch(**fields: list[torch.Tensor]) -> tuple[Any, dict[str, Any]]:
    """A micro-batch with everything that any of our losses reads."""
    segments = [torch.arange(n) // 2 for n in LENGTHS]
    groups = [torch.arange(n) % 2 for n in LENGTHS]
    data, output = micro_batch(LENGTHS, segment_ids=segments, group_ids=groups, **fields)
    generator = torch.Generator().manual_seed(7)
    output["entropy"] = jagged([5 * torch.rand(PROMPT + n, generator=generator) for n in LENGTHS])
    output["entropy"].requires_grad_()
    return data, output


def drifted(step: float, advantages: list[Any]) -> tuple[Any, dict[str, Any]]:
    """Every token's log-prob a step above the old one; an advantage a row, or a tensor of them."""
    rows = [torch.as_tensor(one).expand(n).clone() for one, n in zip(advantages, LENGTHS, strict=True)]
    data, output = batch(advantages=rows)
    old = data["old_log_probs"].unbind()
    padded = [torch.cat([torch.full((PROMPT - 1,), -1.0), one + step, torch.full((1,), -1.0)]) for one in old]
    output["log_probs"] = jagged(padded).detach().requires_grad_()
    return data, output


def configured(name: str, **settings: Any) -> FSDPActorConfig:
    config = actor("vanilla", **settings)
    loss = plugin.POLICY_LOSSES[name]
    object.__setattr__(config, "policy_loss", loss.config_type()())
    object.__setattr__(config, "loss_agg_mode", MODES[name])
    return config


def value_and_gradients(config: Any, data: Any, output: dict[str, Any]) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Loss, and its gradients by the log-probs and the entropies of the responses."""
    loss, _ = engine_workers.ppo_loss(config, output, data)
    gradients = torch.autograd.grad(loss, [output["log_probs"], output["entropy"]], allow_unused=True)
    made = [torch.zeros(sum(LENGTHS) + PROMPT * len(LENGTHS)) if g is None else g.values() for g in gradients]
    return loss.item(), made[0], made[1]


def by_response(values: torch.Tensor) -> torch.Tensor:
    """Of every row the positions whose outputs are about response tokens, padded with 0."""
    rows = [row[PROMPT - 1 : PROMPT - 1 + n] for row, n in zip(values.unbind(), LENGTHS, strict=True)]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def mask() -> torch.Tensor:
    return torch.arange(max(LENGTHS)).unsqueeze(0) < torch.tensor(LENGTHS).unsqueeze(1)


def aggregated(values: torch.Tensor, name: str) -> torch.Tensor:
    """verl's aggregation, with the normalisers of the micro-batch's own numbers."""
    return agg_loss(
        values,
        mask(),
        MODES[name],
        dp_size=1,
        batch_num_tokens=sum(LENGTHS),
        global_batch_size=len(LENGTHS),
    )


@every_loss
def test_every_loss_runs_through_verls_ppo_loss(name: str) -> None:
    value, by_log_prob, by_entropy = value_and_gradients(configured(name), *drifted(0.01, [1.0, -0.5, 0.25]))
    assert abs(value) < 100
    assert by_log_prob.isfinite().all()
    assert by_log_prob.abs().sum() > 0
    assert not by_entropy.any(), "the entropies that a loss reads carry no gradient"


@every_loss
def test_verls_kl_loss_is_added_to_every_loss(name: str) -> None:
    reference = [-1.5 + torch.rand(n, generator=torch.Generator().manual_seed(n)) for n in LENGTHS]
    data, output = batch(ref_log_prob=reference)
    alone = value_and_gradients(configured(name), data, output)
    both = value_and_gradients(configured(name, use_kl_loss=True, kl_loss_coef=0.5), data, output)
    padded = torch.nn.utils.rnn.pad_sequence(reference, batch_first=True)
    penalty = aggregated(kl_penalty(by_response(output["log_probs"]), padded, "low_var_kl"), name)
    (gradient,) = torch.autograd.grad(penalty, output["log_probs"])
    assert penalty.item() > 0.01
    assert both[0] - alone[0] == pytest.approx(0.5 * penalty.item(), rel=1e-4)
    assert torch.allclose(both[1] - alone[1], 0.5 * gradient.values(), atol=1e-6)


@every_loss
def test_verls_entropy_bonus_is_added_to_every_loss(name: str) -> None:
    data, output = batch()
    alone = value_and_gradients(configured(name), data, output)
    both = value_and_gradients(configured(name, entropy_coeff=0.5), data, output)
    bonus = aggregated(by_response(output["entropy"]), name)
    (gradient,) = torch.autograd.grad(bonus, output["entropy"])
    assert both[0] - alone[0] == pytest.approx(-0.5 * bonus.item(), rel=1e-4)
    assert torch.allclose(both[2], -0.5 * gradient.values(), atol=1e-6)
    assert torch.allclose(both[1], alone[1], atol=1e-7)


@every_loss
def test_the_weights_of_rollout_correction_reach_every_loss(name: str) -> None:
    """Twice the weight is twice the objective, penalties of a loss's own included."""
    data, output = batch()
    alone = value_and_gradients(configured(name), data, output)
    data["rollout_is_weights"] = jagged([torch.full((n,), 2.0) for n in LENGTHS])
    weighted = value_and_gradients(configured(name), data, output)
    assert weighted[0] == pytest.approx(2 * alone[0], rel=1e-4)
    assert torch.allclose(weighted[1], 2 * alone[1], atol=1e-6)


@every_loss
def test_advantages_that_differ_by_token_reach_every_loss(name: str) -> None:
    """As a critic gives them: other advantages of the later tokens change the gradient.

    The drift is so small that even ESPO's width, a fiftieth of the relative entropy, clips nothing.
    """
    constant = [torch.full((n,), 0.5) for n in LENGTHS]
    rising = [one * (2 + torch.arange(len(one))) for one in constant]
    gradients = [value_and_gradients(configured(name), *drifted(1e-4, each))[1] for each in (constant, rising)]
    assert gradients[0].isfinite().all()
    assert gradients[0].abs().sum() > 0
    assert not torch.allclose(*gradients)


ACCEPTING = {
    key: [name for name in LOSSES if page.cell_of(feature, name).kind == "tested"]
    for key, feature in (
        ("clip range", next(one for one in FEATURES if one.title == "clip range")),
        ("dual clip", next(one for one in FEATURES if one.title == "dual clip")),
    )
}


@pytest.mark.parametrize("name", ACCEPTING["clip range"])
def test_a_loss_that_accepts_the_clip_range_reads_it(name: str) -> None:
    """A ratio of exp(0.2) = 1.22 and an advantage of 1: clipped at 1.01, not at 2. DCPO's bound for a probability of
    e^-2, the least here, is 1/2 + 1/2 sqrt(1 + 4 * 0.01 e^2) = 1.07."""
    narrow = value_and_gradients(configured(name, clip_ratio_high=0.01), *drifted(0.2, [1.0] * 3))
    wide = value_and_gradients(configured(name, clip_ratio_high=1.0), *drifted(0.2, [1.0] * 3))
    assert wide[1].abs().sum() > 0.1
    # TEPO's penalty is not clipped; its gradient is a thousandth of the objective's.
    assert narrow[1].abs().sum() < 0.001 * wide[1].abs().sum()


@pytest.mark.parametrize("name", ACCEPTING["dual clip"])
def test_a_loss_that_accepts_the_dual_clip_reads_it(name: str) -> None:
    """A ratio of e^2 = 7.39 with a negative advantage has a gradient below c = 10 and none above c = 3."""
    low = value_and_gradients(configured(name, clip_ratio_c=3.0), *drifted(2.0, [-1.0] * 3))
    high = value_and_gradients(configured(name, clip_ratio_c=10.0), *drifted(2.0, [-1.0] * 3))
    assert low[1].abs().sum() == 0
    assert high[1].abs().sum() > 0.1
    assert high[0] / low[0] == pytest.approx(7.38906 / 3, rel=1e-4)


# --- distillation, fused kernels, rewards with a KL


@every_loss
def test_distillation_is_added_to_every_loss(name: str) -> None:
    """verl's k3 of the teacher's log-probs, as a supervised loss with coefficient 1/2."""
    teacher = [-1.5 + torch.rand(PROMPT + n, generator=torch.Generator().manual_seed(n)) for n in LENGTHS]
    data, output = batch(teacher_logprobs=[one.unsqueeze(-1) for one in teacher])
    settings = DistillationConfig(
        enabled=False,
        distillation_loss=DistillationLossConfig(
            loss_mode="k3", use_policy_gradient=False, use_task_rewards=True, distillation_loss_coef=0.5
        ),
    )
    alone, _ = engine_workers.ppo_loss(configured(name), output, data)
    both, metrics = distillation.distillation_ppo_loss(configured(name), settings, output, data)
    part = aggregated(kl_penalty(by_response(output["log_probs"]), by_response(jagged(teacher)), "k3"), name)
    assert part.item() > 0.01
    assert both.item() - alone.item() == pytest.approx(0.5 * part.item(), rel=1e-4)
    assert "distillation/loss" in metrics


@pytest.mark.parametrize("name", NO_ENTROPIES)
def test_verls_fused_kernel_gives_the_log_probs_of_the_plain_pass(name: str) -> None:
    """verl's torch kernel on the CPU: the same loss, and the same gradient at the hidden states and the head."""
    generator = torch.Generator().manual_seed(1)
    data, _ = batch()
    total, vocabulary, width, temperature = sum(LENGTHS) + PROMPT * len(LENGTHS), 37, 8, 0.7
    hidden = torch.randn(total, width, generator=generator)
    head = torch.randn(vocabulary, width, generator=generator)
    labels = torch.randint(vocabulary, (total,), generator=generator)
    results = []
    for fused in (False, True):
        leaves = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        if fused:
            log_probs, _ = FusedLinearForPPO(impl_backend="torch")(*leaves, labels, temperature)
        else:
            logits = leaves[0] @ leaves[1].t() / temperature
            log_probs = logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        rows = log_probs.split([PROMPT + n for n in LENGTHS])
        loss, _ = engine_workers.ppo_loss(configured(name), {"log_probs": jagged(list(rows))}, data)
        results.append((loss, *torch.autograd.grad(loss, leaves)))
    for plain, kernel in zip(*results, strict=True):
        assert torch.allclose(plain, kernel, atol=1e-5)
    assert results[0][1].abs().sum() > 0


def test_verls_fused_kernel_rounds_entropies_to_the_hidden_states_type() -> None:
    """The reason for a refusal: in bfloat16 an entropy of about 3 nats comes in steps of 2^-6."""
    generator = torch.Generator().manual_seed(2)
    hidden, head = torch.randn(64, 8, generator=generator), torch.randn(31, 8, generator=generator) / 4
    labels = torch.zeros(64, dtype=torch.long)
    kernel = FusedLinearForPPO(impl_backend="torch")
    assert kernel(hidden, head, labels)[1].dtype == torch.float32
    entropy = kernel(hidden.bfloat16(), head.bfloat16(), labels)[1]
    assert entropy.dtype == torch.bfloat16
    between = entropy[(entropy > 2) & (entropy < 4)].double() * 64
    assert len(between) > 10
    assert torch.equal(between, between.round())


def test_a_kl_in_the_reward_reaches_the_outcome() -> None:
    """Rewards 1 and 0 and a KL of 0.25 a token on the first row alone: outcomes 0.5 and 0, so the order stays."""
    from verl_ext.context import TokenContext, token_context

    rewards = torch.tensor([[-0.25, 0.75], [0.0, 0.0]])
    entropy = torch.full((2, 2), 0.5)
    context = TokenContext(
        verified=torch.tensor([True, True]),
        old_entropy=entropy,
        old_log_prob=-entropy,
        ref_log_prob=-entropy,
    )
    (feature,) = [one for one in FEATURES if one.title == "KL in the reward"]
    assert feature.estimators == ("espo", "erpo", "entropy_bonus")
    for name in feature.estimators:
        with token_context(context):
            advantages, _ = plugin.ESTIMATORS[name](rewards, torch.ones(2, 2), index=["a", "a"], config=None)
        assert advantages[0].mean() > 0.3, name
        assert advantages[1].mean() < -0.3, name


def test_the_settings_of_distillation_are_where_the_fault_looks() -> None:
    node = compose().distillation
    assert node.enabled is False
    assert node.distillation_loss.use_task_rewards is True
    assert tu.get(batch()[0], "no such field", None) is None
