"""The table of everything verl_ext adds to verl, and the adapters from verl's signatures.

`register()` copies the two tables below into verl's registries, `add()` puts a method of another package into them.
An entry holds all that is known of a method beside its function.
"""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import Any

from torch import Tensor

from verl_ext import segments
from verl_ext.advantages.entropy_bonus import entropy_bonus_advantage
from verl_ext.advantages.erpo import erpo_advantage
from verl_ext.advantages.espo import espo_advantage
from verl_ext.advantages.gtpo import grpo_s_advantage, gtpo_advantage
from verl_ext.context import TokenContext, current_context, require
from verl_ext.hyper import Checked, checks_of, nearest, out_of_range
from verl_ext.losses import dcpo, espo, grpo_s, high_entropy, sspo, steer, tepo
from verl_ext.losses.common import GlobalBatch

PREPARED = ("segment_ids", "group_ids")
"""Fields of `TokenContext` that no part of verl provides: a loss that reads one prepares it."""


@dataclass(frozen=True)
class PreparationData:
    """What the controller hands to `PolicyLoss.prepare`, all rows of the batch.

    Attributes:
        responses: [B, T] long, token ids.
        response_mask: [B, T] bool, after verl's rollout correction.
        old_entropy: [B, T] float or None, nats.
        tokenizer: the model's Hugging Face tokenizer.
    """

    responses: Tensor
    response_mask: Tensor
    old_entropy: Tensor | None
    tokenizer: Any


@dataclass(frozen=True)
class Method(ABC):
    """What a loss and an estimator have in common.

    Attributes:
        name: key in verl's registry.
        implementation: pure function of tensors and floats.
        config: the hyper-parameter class, `verl_ext.hyper.Checked`, or "module:Class". Ours are named, because
            verl_ext.config imports verl, which must not happen where this table is only looked at. Without one it is
            made of the signature by verl_ext.config.
        title, arxiv: the paper.
        reads: fields of `TokenContext` handed to the implementation when present.
        needs: hyper-parameters -> those of `reads` that must be present; all of them where it is None.
        tried: hyper-parameter -> further values that the conformance battery tries; those of a closed list of names
            are tried without.
    """

    name: str
    implementation: Callable[..., Any] = field(repr=False)
    config: type[Any] | str = ""
    title: str = ""
    arxiv: str = ""
    reads: tuple[str, ...] = ()
    needs: Callable[..., tuple[str, ...]] | None = field(default=None, repr=False)
    tried: Mapping[str, tuple[Any, ...]] = field(default_factory=dict, repr=False)

    def config_type(self) -> Any:
        """The hyper-parameter class; imports verl."""
        if not isinstance(self.config, str):
            return self.config
        module, name = (self.config or f"verl_ext.config:{self.derived_name}").split(":")
        return getattr(import_module(module), name)

    @property
    def config_path(self) -> str:
        """What `_target_` names."""
        if isinstance(self.config, str):
            return self.config.replace(":", ".") or f"verl_ext.config.{self.derived_name}"
        return f"{self.config.__module__}.{self.config.__qualname__}"

    @property
    def derived_name(self) -> str:
        """What the class that is made of the signature is called."""
        kind = "Loss" if isinstance(self, PolicyLoss) else "Advantage"
        return "".join(part.capitalize() for part in self.name.split("_")) + f"{kind}Config"

    def needs_with(self, hyper: Mapping[str, Any]) -> tuple[str, ...]:
        """Those of `reads` that must be present with these hyper-parameters."""
        return self.reads if self.needs is None else self.needs(**hyper)

    def needed(self, node: Any) -> tuple[str, ...]:
        """Token data that the method needs with the hyper-parameters of a node; none where they are at fault."""
        try:
            return self.needs_with(self.resolve(node))
        except ValueError:
            return ()

    @abstractmethod
    def resolve(self, node: Any) -> dict[str, Any]:
        """Hyper-parameters in force: the keys of verl's configuration node, defaults for the rest."""

    def token_data(self, hyper: Mapping[str, Any]) -> dict[str, Any]:
        """What `reads` names, from the current context; MissingTokenData where `needs` is not met."""
        context = current_context()
        require(context, self.name, *self.needs_with(hyper))
        return {name: getattr(context, name) for name in self.reads}


@dataclass(frozen=True)
class PolicyLoss(Method):
    """A registered policy loss; calling it is calling verl's loss signature.

    Attributes:
        aggregations: values of `actor.loss_agg_mode` that the method can honour.
        settings: keys of verl's actor configuration that the implementation takes.
        prepares: field of `TokenContext` that is computed once, on the controller, and sent to the workers.
        prepare: computes it, `(PreparationData, **hyper) -> [B, T] or None`; None sends nothing.
        controller_keys: hyper-parameters that only `prepare` takes.
        exempt: property of the conformance battery, with or without the options concerned -> why the method's own
            equation excludes it; see verl_ext.conformance.exemptions. At most three properties.
        clip_form: what the loss does off-policy, for the battery: a name of `verl_ext.conformance.clip_forms.FORMS`, or
            "module:function"; without one, two of its columns do not apply.
        own_bounds: hyper-parameters -> the option by which the loss does not clip by verl's clip range, if any.
        token_clipped: whether it clips each token's ratio by `clip_ratio_low` and `clip_ratio_high`.
        metrics: name -> unit and meaning of each metric of the loss's own, for docs/metrics.md and the report.
    """

    aggregations: tuple[str, ...] = ()
    settings: tuple[str, ...] = ("clip_ratio_low", "clip_ratio_high")
    prepares: str | None = None
    prepare: Callable[..., Tensor | None] | None = field(default=None, repr=False)
    controller_keys: tuple[str, ...] = ()
    exempt: Mapping[str, str] = field(default_factory=dict, repr=False)
    clip_form: str | None = field(default=None, repr=False)
    own_bounds: Callable[..., str] = field(default=lambda **_: "", repr=False)
    token_clipped: bool = False
    metrics: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)

    def __call__(
        self,
        old_log_prob: Tensor,
        log_prob: Tensor,
        advantages: Tensor,
        response_mask: Tensor,
        loss_agg_mode: str = "token-mean",
        config: Any = None,
        rollout_is_weights: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        if config is None:
            raise ValueError(f"`{self.name}` needs verl's actor configuration in `config`")
        self.check_aggregation(loss_agg_mode)
        hyper = self.resolve(config.policy_loss)
        read = {name: value for name, value in hyper.items() if name not in self.controller_keys}
        return self.implementation(
            old_log_prob,
            log_prob,
            advantages,
            response_mask,
            loss_agg_mode=loss_agg_mode,
            batch=GlobalBatch(**(getattr(config, "global_batch_info", None) or {})),
            rollout_is_weights=rollout_is_weights,
            **self.settings_of(config),
            **self.token_data(hyper),
            **read,
        )

    def settings_of(self, actor: Any) -> dict[str, Any]:
        """The values of `settings` in verl's actor configuration."""
        low, high = clip_range(actor)
        found = {"clip_ratio_low": low, "clip_ratio_high": high}
        return {name: found[name] if name in found else actor.get(name) for name in self.settings}

    def setting_faults(self, actor: Any) -> list[str]:
        """Values of `settings` in verl's actor configuration that the implementation would refuse."""
        faults = out_of_range(checks_of(self.implementation), self.settings_of(actor))
        return [f"actor_rollout_ref.actor.{fault}" for fault in faults.values()]

    def check_aggregation(self, loss_agg_mode: str) -> None:
        """ValueError where the method has no meaning under this aggregation."""
        if loss_agg_mode not in self.aggregations:
            raise ValueError(
                f"`{self.name}` cannot run with actor_rollout_ref.actor.loss_agg_mode={loss_agg_mode}; "
                f"set it to {' or '.join(self.aggregations)}"
            )

    def resolve(self, policy_loss: Any) -> dict[str, Any]:
        """Hyper-parameters in force: the keys that `config.policy_loss` has, defaults for the rest."""
        cls = self.config_type()
        if isinstance(policy_loss, cls):
            return policy_loss.resolved()
        given = {name: policy_loss.get(name) for name in cls.names()}
        return cls(**{name: value for name, value in given.items() if value is not None}).resolved()


@dataclass(frozen=True)
class Estimator(Method):
    """A registered advantage estimator; calling it is calling verl's estimator signature.

    Attributes:
        reads_sign: hyper-parameters -> whether it tells right from wrong by the sign of the reward.
    """

    reads_sign: Callable[..., bool] = field(default=lambda **_: False, repr=False)

    def __call__(
        self,
        token_level_rewards: Tensor,
        response_mask: Tensor,
        index: Any = None,
        config: Any = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        if index is None:
            raise ValueError(f"`{self.name}` compares the rows of one prompt, but the batch has no `uid`")
        if config is not None and config.get("norm_adv_by_std_in_grpo", True) is False:
            raise ValueError(
                f"algorithm.norm_adv_by_std_in_grpo=False is not defined for `{self.name}`, which divides "
                "by the standard deviation; set it to True, or use verl's own `grpo`"
            )
        hyper = self.resolve(config)
        data = self.token_data(hyper)
        return self.implementation(token_level_rewards, response_mask, index, **data, **hyper)

    def resolve(self, algorithm: Any) -> dict[str, Any]:
        """Hyper-parameters in force: the keys of `algorithm.<name>`, defaults for the rest."""
        given = (algorithm.get(self.name) if algorithm is not None else None) or {}
        if not isinstance(given, Mapping):
            keys = ", ".join(self.config_type().names())
            raise ValueError(f"algorithm.{self.name} must hold keys ({keys}), but it is {given!r}")
        return self.config_type()(**given).resolved()


def _entropy_groups(data: PreparationData, **hyper: Any) -> Tensor | None:
    if data.old_entropy is None:
        return None
    return espo.make_group_ids(data.old_entropy, data.response_mask, **hyper)


def _high_entropy_groups(data: PreparationData, **hyper: Any) -> Tensor | None:
    if data.old_entropy is None:
        return None
    return high_entropy.batch_groups(data.old_entropy, data.response_mask, **hyper)


def _segments(data: PreparationData, *, delimiter: str, **_: Any) -> Tensor:
    return segments.segment_table(data.tokenizer, delimiter).ids(data.responses, data.response_mask)


POLICY_LOSSES: dict[str, PolicyLoss] = {
    loss.name: loss
    for loss in (
        PolicyLoss(
            name="espo",
            implementation=espo.espo_loss,
            config="verl_ext.config:ESPOLossConfig",
            title="Entropy Importance Sampling Policy Optimization",
            arxiv="2512.00499",
            reads=("old_entropy", "vocab_size", "group_ids"),
            needs=espo.token_data,
            aggregations=espo.AGGREGATIONS,
            prepares="group_ids",
            prepare=_entropy_groups,
            exempt={
                "on_policy[grouping=quantile|threshold]": "section 3.2 weighs groups equally, whatever their size",
            },
            clip_form="verl_ext.conformance.clip_forms:espo",
            own_bounds=espo.own_bounds,
            tried={"entropy_thresholds": ([1.0],), "entropy_quantiles": ([0.3, 0.6],)},
        ),
        PolicyLoss(
            name="sspo",
            implementation=sspo.sspo_loss,
            config="verl_ext.config:SSPOLossConfig",
            title="Subsentence-level Policy Optimization",
            arxiv="2511.04256",
            reads=("segment_ids", "old_entropy"),
            needs=sspo.token_data,
            aggregations=sspo.AGGREGATIONS,
            prepares="segment_ids",
            prepare=_segments,
            controller_keys=("delimiter",),
            exempt={
                "on_policy[advantages=token]": "equation 16 has one advantage a segment",
                "sign[advantages=token]": "equation 16 has one advantage a segment",
            },
            clip_form="verl_ext.conformance.clip_forms:sspo",
            own_bounds=sspo.own_bounds,
            tried={"alpha": (0.15,)},
        ),
        PolicyLoss(
            name="tepo",
            implementation=tepo.tepo_loss,
            config="verl_ext.config:TEPOLossConfig",
            title="Token-Level Policy Optimization",
            arxiv="2604.12736",
            reads=("entropy", "old_entropy"),
            needs=tepo.token_data,
            aggregations=tepo.AGGREGATIONS,
            exempt={
                "on_policy[ratio=prefix]": "the ratio of table 5 hands an advantage on to the tokens before it",
                "on_policy[ratio=sequence,advantages=token]": "equation 4 spreads each advantage over the row",
                "on_policy[kl_type=kl|k1]": "this estimate of the KL has a gradient where the policies are equal",
                "sign[ratio=sequence|prefix,advantages=token]": "equation 4 spreads each advantage over the row",
                "sign[kl_type=kl|k1]": "this estimate of the KL has a gradient where the policies are equal",
            },
            clip_form="verl_ext.conformance.clip_forms:tepo",
            own_bounds=tepo.own_bounds,
            tried={"kl_coef": (1.0,)},
        ),
        PolicyLoss(
            name="steer",
            implementation=steer.steer_loss,
            config="verl_ext.config:STEERLossConfig",
            title="Rethinking Entropy Interventions in RLVR (STEER)",
            arxiv="2510.10150",
            reads=("entropy",),
            aggregations=steer.AGGREGATIONS,
            settings=("clip_ratio_low", "clip_ratio_high", "clip_ratio_c"),
            exempt={
                "micro_batches[scope=micro_batch]": "its authors scale by the greatest |Omega| of the micro-batch",
                "on_policy": "its weights are not 1 on-policy",
            },
            clip_form="verl_ext.conformance.clip_forms:steer",
            token_clipped=True,
        ),
        PolicyLoss(
            name="dcpo",
            implementation=dcpo.dcpo_loss,
            config="verl_ext.config:DCPOLossConfig",
            title="Dynamic Clipping Policy Optimization",
            arxiv="2509.02333",
            aggregations=dcpo.AGGREGATIONS,
            clip_form="verl_ext.conformance.clip_forms:dcpo",
        ),
        PolicyLoss(
            name="high_entropy",
            implementation=high_entropy.high_entropy_loss,
            config="verl_ext.config:HighEntropyLossConfig",
            title="Beyond the 80/20 Rule",
            arxiv="2506.01939",
            reads=("entropy", "group_ids"),
            needs=high_entropy.token_data,
            aggregations=high_entropy.AGGREGATIONS,
            settings=("clip_ratio_low", "clip_ratio_high", "clip_ratio_c"),
            prepares="group_ids",
            prepare=_high_entropy_groups,
            exempt={
                "on_policy": "equation 6 drops the tokens of lower entropy and weights the others up",
                "sign[scope=batch]": "equation 6 may drop every token of a row: its threshold is the batch's",
            },
            clip_form="verl_ext.conformance.clip_forms:high_entropy",
            token_clipped=True,
        ),
        PolicyLoss(
            name="grpo_s",
            implementation=grpo_s.grpo_s_loss,
            config="verl_ext.config:GRPOSLossConfig",
            title="GTPO and GRPO-S",
            arxiv="2508.04349",
            aggregations=grpo_s.AGGREGATIONS,
            exempt={
                "on_policy[advantages=token]": "equation 10 has one advantage a sequence",
                "sign[advantages=token]": "equation 10 has one advantage a sequence",
            },
            clip_form="ppo",
        ),
    )
}

ESTIMATORS: dict[str, Estimator] = {
    estimator.name: estimator
    for estimator in (
        Estimator(
            name="espo",
            implementation=espo_advantage,
            config="verl_ext.config:ESPOAdvantageConfig",
            title="Entropy Importance Sampling Policy Optimization",
            arxiv="2512.00499",
            reads=("verified",),
            reads_sign=lambda *, failed, **_: failed == "incorrect",
        ),
        Estimator(
            name="erpo",
            implementation=erpo_advantage,
            config="verl_ext.config:ERPOAdvantageConfig",
            title="Token-Level Entropy-Regulated Policy Optimization",
            arxiv="2603.28204",
            reads=("old_entropy", "old_log_prob", "ref_log_prob"),
            tried={"num_buckets": (2,)},
        ),
        Estimator(
            name="entropy_bonus",
            implementation=entropy_bonus_advantage,
            config="verl_ext.config:EntropyBonusAdvantageConfig",
            title="Reasoning with Exploration: An Entropy Perspective",
            arxiv="2506.14758",
            reads=("old_entropy",),
        ),
        Estimator(
            name="gtpo",
            implementation=gtpo_advantage,
            config="verl_ext.config:GTPOAdvantageConfig",
            title="GTPO and GRPO-S",
            arxiv="2508.04349",
            reads=("old_entropy",),
            reads_sign=lambda **_: True,
        ),
        Estimator(
            name="grpo_s",
            implementation=grpo_s_advantage,
            config="verl_ext.config:GRPOSAdvantageConfig",
            title="GTPO and GRPO-S",
            arxiv="2508.04349",
            reads=("old_entropy",),
            reads_sign=lambda **_: True,
        ),
    )
}


def add(method: PolicyLoss | Estimator) -> None:
    """Add a method of another package: it is checked, provided with token data and reported like ours from then on.

    Called when that package's module is imported; `verl_ext.modules` has it imported in every process of a run.

    Args:
        method: its table entry.

    Raises:
        ValueError: its name is taken by something else, or its entry does not fit its function; every fault at once.
    """
    faults = entry_faults(method)
    table: MutableMapping[str, Any] = POLICY_LOSSES if isinstance(method, PolicyLoss) else ESTIMATORS
    if table.get(method.name, method) != method:
        faults.append(f"it is already {table[method.name]!r}; choose another name")
    if faults:
        raise ValueError(f"verl_ext.add of `{method.name}`: {'; '.join(faults)}")
    before = dict(table)
    table[method.name] = method
    if "verl.trainer.ppo.core_algos" not in sys.modules:
        return
    try:
        register()
    except ValueError:
        table.clear()
        table.update(before)
        raise


def entry_faults(method: PolicyLoss | Estimator) -> list[str]:
    """Where an entry does not fit `TokenContext` or its function, as sentences, before a run finds out."""
    known = [field.name for field in fields(TokenContext)]
    found = [f"TokenContext has no field {name!r}{nearest(name, known)}" for name in method.reads if name not in known]
    given = [*method.reads]
    if isinstance(method, PolicyLoss):
        given += [*method.settings, "loss_agg_mode", "batch", "rollout_is_weights"]
        found += _unprepared(method)
        found += [] if method.aggregations else ["`aggregations` is empty: name the values of loss_agg_mode it honours"]
    # A class that is only named may stand in a module that is not imported yet.
    if isinstance(method.config, type):
        if not issubclass(method.config, Checked):
            return [*found, f"{method.config_path} is no verl_ext.hyper.Checked, as verl_ext.config.MethodConfig is"]
        given += [name for name in method.config.names() if name not in getattr(method, "controller_keys", ())]
    takes = inspect.signature(method.implementation).parameters
    if any(each.kind is each.VAR_KEYWORD for each in takes.values()):
        return found
    name = getattr(method.implementation, "__name__", repr(method.implementation))
    return found + [f"{name}() has no parameter {each!r}, which it is given" for each in given if each not in takes]


def _unprepared(method: PolicyLoss) -> list[str]:
    """Fields that only the controller can compute, and nothing computes."""
    made = method.prepares if method.prepare is not None else None
    wanted = dict.fromkeys([*(name for name in PREPARED if name in method.reads), *filter(None, [method.prepares])])
    return [
        f"{name} is computed on the controller, by the method: set `prepares={name!r}` and `prepare` to a function"
        for name in wanted
        if name != made
    ]


def register() -> None:
    """Put every loss and estimator into verl's registries; calling it again changes nothing.

    Raises:
        ValueError: a name is already taken by something else. Nothing has been registered then.
    """
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY

    pairs: list[tuple[str, Mapping[str, Any], MutableMapping[str, Any]]] = [
        ("policy loss", POLICY_LOSSES, POLICY_LOSS_REGISTRY),
        ("advantage estimator", ESTIMATORS, ADV_ESTIMATOR_REGISTRY),
    ]
    taken = [
        f"\n  - {kind} '{name}' is already {registry[name]!r}"
        for kind, ours, registry in pairs
        for name, method in ours.items()
        if registry.get(name, method) is not method
    ]
    if taken:
        raise ValueError(
            f"verl_ext registers nothing, because it would overwrite another plugin:{''.join(taken)}\n"
            "Remove or rename the other entry."
        )
    for _, ours, registry in pairs:
        registry.update(ours)


def clip_range(actor: Any) -> tuple[float, float]:
    """`clip_ratio_low` and `clip_ratio_high` of verl's actor; `clip_ratio` stands in where one is None."""
    low, high = actor.clip_ratio_low, actor.clip_ratio_high
    return (actor.clip_ratio if low is None else low, actor.clip_ratio if high is None else high)


def resolved_hyper_parameters(name: str, actor: Any) -> dict[str, Any]:
    """What a loss will run with, JSON-able: for the execution report and its comparison with the config.

    Args:
        name: key in verl's policy loss registry. For a loss of verl's own, only the common part.
        actor: verl's actor configuration.
    """
    low, high = clip_range(actor)
    common = {"clip_ratio_low": low, "clip_ratio_high": high, "loss_agg_mode": actor.loss_agg_mode}
    method = POLICY_LOSSES.get(name)
    own = {**method.resolve(actor.policy_loss), **method.settings_of(actor)} if method else {}
    return {**own, **common}
