"""A policy loss of one's own: PPO's clipped term, and tokens of high entropy weigh more."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import verl_ext
from verl_ext.config import MethodConfig
from verl_ext.hyper import check_call, hyper_of, number
from verl_ext.losses import common, slots


def my_loss(
    old_log_prob, log_prob, advantages, response_mask, *,
    old_entropy=None,
    kappa: Annotated[float, number(least=0)] = 0.5,
    clip_ratio_low=0.2, clip_ratio_high=0.28, loss_agg_mode="token-mean",
    batch, rollout_is_weights=None,
):  # fmt: skip
    """J_t = min(r A, clip(r, 1 - low, 1 + high) A), A = (1 + kappa H_t) A_t, H_t the old policy's entropy in nats."""
    check_call(my_loss, {"kappa": kappa})
    tokens = common.read_tokens(
        old_log_prob, log_prob, advantages, response_mask,
        old_entropy=old_entropy, rollout_is_weights=rollout_is_weights,
    )  # fmt: skip
    entropy = tokens.keep(old_entropy)
    objective = slots.objective(slots.weighted(tokens, 1 + kappa * entropy), 1 - clip_ratio_low, 1 + clip_ratio_high)
    metrics = {"actor/my_loss/entropy": entropy.sum() / tokens.mask.sum().clamp(min=1)}
    return objective.loss(loss_agg_mode, batch, rollout_is_weights, metrics)


@dataclass
class MyLossConfig(MethodConfig):
    """`policy_loss._target_=my_loss.MyLossConfig`, `policy_loss.loss_mode=my_loss`, `+policy_loss.kappa=...`."""

    method: ClassVar[str] = "my_loss"
    loss_mode: str = "my_loss"
    kappa: float = hyper_of(my_loss, "kappa")


verl_ext.add(
    verl_ext.PolicyLoss(
        name="my_loss",
        implementation=my_loss,
        config=MyLossConfig,
        reads=("old_entropy",),
        aggregations=common.AGGREGATIONS,
        tried={"kappa": (2.0,)},
        exempt={"on_policy": "tokens of high entropy weigh more, on-policy too"},
    )
)
