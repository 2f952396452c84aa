"""The table of everything verl_ext adds to verl, and the adapters from verl's signatures.

`register()` copies the two tables below into verl's registries. A new method is one file in losses/ or
advantages/, one configuration class in config.py, and one entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from torch import Tensor

from verl_ext.advantages.espo import espo_advantage
from verl_ext.context import current_context, require
from verl_ext.losses import espo
from verl_ext.losses.common import GlobalBatch


@dataclass(frozen=True)
class Method:
    """What a loss and an estimator have in common.

    Attributes:
        name: key in verl's registry.
        implementation: pure function of tensors and floats.
        config_class: name of the hyper-parameter class in verl_ext.config. A name, because that module
            imports verl, which must not happen where this table is only looked at.
        title, arxiv: the paper.
        reads: fields of `TokenContext` handed to the implementation when present.
        needs: hyper-parameters -> those of `reads` that must be present.
    """

    name: str
    implementation: Callable[..., Any] = field(repr=False)
    config_class: str
    title: str
    arxiv: str
    reads: tuple[str, ...]
    needs: Callable[..., tuple[str, ...]] = field(repr=False)

    def config_type(self) -> Any:
        """The hyper-parameter class; imports verl."""
        return getattr(import_module("verl_ext.config"), self.config_class)

    def token_data(self, hyper: Mapping[str, Any]) -> dict[str, Any]:
        """What `reads` names, from the current context; MissingTokenData where `needs` is not met."""
        context = current_context()
        require(context, self.name, *self.needs(**hyper))
        return {name: getattr(context, name) for name in self.reads}


@dataclass(frozen=True)
class PolicyLoss(Method):
    """A registered policy loss; calling it is calling verl's loss signature.

    Attributes:
        aggregations: values of `actor.loss_agg_mode` that the method can honour.
    """

    aggregations: tuple[str, ...] = ()

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
        low, high = clip_range(config)
        return self.implementation(
            old_log_prob,
            log_prob,
            advantages,
            response_mask,
            clip_ratio_low=low,
            clip_ratio_high=high,
            loss_agg_mode=loss_agg_mode,
            batch=GlobalBatch(**(getattr(config, "global_batch_info", None) or {})),
            rollout_is_weights=rollout_is_weights,
            **self.token_data(hyper),
            **hyper,
        )

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
    """A registered advantage estimator; calling it is calling verl's estimator signature."""

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


POLICY_LOSSES: dict[str, PolicyLoss] = {
    loss.name: loss
    for loss in (
        PolicyLoss(
            name="espo",
            implementation=espo.espo_loss,
            config_class="ESPOLossConfig",
            title="Entropy Importance Sampling Policy Optimization",
            arxiv="2512.00499",
            reads=("old_entropy", "vocab_size"),
            needs=espo.token_data,
            aggregations=espo.AGGREGATIONS,
        ),
    )
}

ESTIMATORS: dict[str, Estimator] = {
    estimator.name: estimator
    for estimator in (
        Estimator(
            name="espo",
            implementation=espo_advantage,
            config_class="ESPOAdvantageConfig",
            title="Entropy Importance Sampling Policy Optimization",
            arxiv="2512.00499",
            reads=("verified",),
            needs=lambda **_: ("verified",),
        ),
    )
}


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
    own = POLICY_LOSSES[name].resolve(actor.policy_loss) if name in POLICY_LOSSES else {}
    return {**own, **common}
