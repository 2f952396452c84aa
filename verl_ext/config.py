"""Typed hyper-parameters. Each class is the whole list of what its method reads, with ranges.

Losses: `actor_rollout_ref.actor.policy_loss._target_=verl_ext.config.ESPOLossConfig`, further keys with
Hydra's `+`. Estimators: the keys of `algorithm.<name>`, e.g. `+algorithm.espo.failed=incorrect`.

Defaults and ranges are those of the methods' own signatures.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from functools import cache
from typing import Any, ClassVar

from verl.workers.config import PolicyLossConfig

from verl_ext.advantages import (
    entropy_bonus_advantage,
    erpo_advantage,
    espo_advantage,
    grpo_s_advantage,
    gtpo,
    gtpo_advantage,
)
from verl_ext.bridge.install import install
from verl_ext.hyper import Checked, checks_of, hyper, hyper_of, text
from verl_ext.losses import (
    dcpo_loss,
    espo,
    espo_loss,
    high_entropy_loss,
    sspo_loss,
    steer,
    steer_loss,
    tepo_loss,
)
from verl_ext.plugin import ESTIMATORS, POLICY_LOSSES, Method, PolicyLoss

# A configuration that names a class of this module must not depend on verl's plugin discovery, which can be switched
# off and swallows exceptions: here a plugin that cannot be installed is an error that Hydra reports.
install()


@dataclass
class MethodConfig(Checked, PolicyLossConfig):
    """Base of the loss configurations: verl's own keys stay known, so that its YAML defaults may be there."""

    method: ClassVar[str] = ""
    where: ClassVar[str] = "actor_rollout_ref.actor.policy_loss"

    @classmethod
    def _contradictions(cls, values: Mapping[str, Any]) -> list[str]:
        mode = values.get("loss_mode", cls.method)
        if mode == cls.method:
            return []
        # verl's YAML says loss_mode: vanilla, so setting _target_ alone would train with another loss.
        return [f"loss_mode={mode!r} would leave these keys unread; set {cls.where}.loss_mode={cls.method}"]


@dataclass
class ESPOLossConfig(MethodConfig):
    """Hyper-parameters of the `espo` loss, arXiv 2512.00499; see docs/methods/espo.md.

    Attributes:
        grouping: `quantile`, `threshold`, `sequence` or `token`.
        entropy_quantiles: cuts of `quantile`, each strictly between 0 and 1.
        entropy_thresholds: cuts of `threshold`, nats.
        token_ratio: `detached` or `old`.
        clip: `adaptive` or `fixed` (actor.clip_ratio_low and clip_ratio_high).
        alpha: factor of the adaptive width, >= 0.
    """

    method: ClassVar[str] = "espo"

    loss_mode: str = "espo"
    grouping: str = hyper_of(espo_loss, "grouping")
    entropy_quantiles: list[float] = hyper_of(espo_loss, "entropy_quantiles")  # noqa: RUF009
    entropy_thresholds: list[float] = hyper_of(espo_loss, "entropy_thresholds")  # noqa: RUF009
    token_ratio: str = hyper_of(espo_loss, "token_ratio")
    clip: str = hyper_of(espo_loss, "clip")
    alpha: float = hyper_of(espo_loss, "alpha")

    @classmethod
    def _contradictions(cls, values: Mapping[str, Any]) -> list[str]:
        return [*super()._contradictions(values), *espo.contradictions(values)]


@dataclass
class SSPOLossConfig(MethodConfig):
    """Hyper-parameters of the `sspo` loss, arXiv 2511.04256; see docs/methods/sspo.md.

    Attributes:
        delimiter: text that ends a segment; read on the controller, where segments are made.
        entropy_clip: bounds from the segment's entropy; false: actor.clip_ratio_low and clip_ratio_high.
        alpha: slack of the upper bound, >= 0.
        beta: cap of the lower bound, 0 to 1.
        gamma: cap of the upper bound, >= 1.
    """

    method: ClassVar[str] = "sspo"

    loss_mode: str = "sspo"
    delimiter: str = hyper("\n\n", text())
    entropy_clip: bool = hyper_of(sspo_loss, "entropy_clip")
    alpha: float = hyper_of(sspo_loss, "alpha")
    beta: float = hyper_of(sspo_loss, "beta")
    gamma: float = hyper_of(sspo_loss, "gamma")


@dataclass
class TEPOLossConfig(MethodConfig):
    """Hyper-parameters of the `tepo` loss, arXiv 2604.12736; see docs/methods/tepo.md.

    Attributes:
        ratio: `sequence`, `token`, `prefix` or `none`.
        clip: `printed`, `ppo` or `none`; not read with `ratio=none`.
        kl_mask: tokens that the penalty acts on.
        entropy_tol: least change of entropy that counts, nats, >= 0.
        kl_coef: factor of the penalty, >= 0.
        kl_type: estimator of the penalty, as in verl's `kl_penalty`.
    """

    method: ClassVar[str] = "tepo"

    loss_mode: str = "tepo"
    ratio: str = hyper_of(tepo_loss, "ratio")
    clip: str = hyper_of(tepo_loss, "clip")
    kl_mask: str = hyper_of(tepo_loss, "kl_mask")
    entropy_tol: float = hyper_of(tepo_loss, "entropy_tol")
    kl_coef: float = hyper_of(tepo_loss, "kl_coef")
    kl_type: str = hyper_of(tepo_loss, "kl_type")


@dataclass
class STEERLossConfig(MethodConfig):
    """Hyper-parameters of the `steer` loss, arXiv 2510.10150; see docs/methods/steer.md.

    Attributes:
        mapping: `exponential` or `linear`.
        scope: `row`, or `micro_batch` (the value then depends on the size of the micro-batch).
        w_min: least weight, > 0; at most 1 with `exponential`.
        w_max: greatest weight of `linear`, >= w_min.
    """

    method: ClassVar[str] = "steer"

    loss_mode: str = "steer"
    mapping: str = hyper_of(steer_loss, "mapping")
    scope: str = hyper_of(steer_loss, "scope")
    w_min: float = hyper_of(steer_loss, "w_min")
    w_max: float = hyper_of(steer_loss, "w_max")

    @classmethod
    def _contradictions(cls, values: Mapping[str, Any]) -> list[str]:
        return [*super()._contradictions(values), *steer.contradictions(values)]


@dataclass
class DCPOLossConfig(MethodConfig):
    """Hyper-parameters of the `dcpo` loss, arXiv 2509.02333; see docs/methods/dcpo.md.

    Attributes:
        r_max: greatest ratio for either sign of the advantage, > 1.
    """

    method: ClassVar[str] = "dcpo"

    loss_mode: str = "dcpo"
    r_max: float = hyper_of(dcpo_loss, "r_max")


@dataclass
class HighEntropyLossConfig(MethodConfig):
    """Hyper-parameters of the `high_entropy` loss, arXiv 2506.01939; see docs/methods/high_entropy.md.

    Attributes:
        rho: share of tokens that learn, > 0 and <= 1.
        scope: `row` (current entropies) or `batch` (old entropies, cut on the controller).
    """

    method: ClassVar[str] = "high_entropy"

    loss_mode: str = "high_entropy"
    rho: float = hyper_of(high_entropy_loss, "rho")
    scope: str = hyper_of(high_entropy_loss, "scope")


@dataclass
class GRPOSLossConfig(MethodConfig):
    """The `grpo_s` loss, arXiv 2508.04349, which has no hyper-parameters of its own; see docs/methods/grpo_s.md."""

    method: ClassVar[str] = "grpo_s"

    loss_mode: str = "grpo_s"


@dataclass
class ESPOAdvantageConfig(Checked):
    """Hyper-parameters of the `espo` estimator, `algorithm.espo`.

    Attributes:
        failed: rows that get advantage 0 and enter no statistic: `unverified`, or `incorrect` (those and
            the rows with a reward <= 0).
    """

    method: ClassVar[str] = "espo"
    where: ClassVar[str] = "algorithm.espo"

    failed: str = hyper_of(espo_advantage, "failed")


@dataclass
class ERPOAdvantageConfig(Checked):
    """Hyper-parameters of the `erpo` estimator, `algorithm.erpo`, arXiv 2603.28204; see docs/methods/erpo.md.

    Attributes:
        beta_progress: factor of the progress signal, >= 0; it cancels in the bucket's z-score up to delta.
        gamma: steepness of the entropy gate, >= 0.
        num_buckets: buckets of relative position, >= 1.
        eta: weight of the process signal, >= 0.
        sigma_target: standard deviation of the process signal, >= 0.
        delta: added to every standard deviation, > 0.
    """

    method: ClassVar[str] = "erpo"
    where: ClassVar[str] = "algorithm.erpo"

    beta_progress: float = hyper_of(erpo_advantage, "beta_progress")
    gamma: float = hyper_of(erpo_advantage, "gamma")
    num_buckets: int = hyper_of(erpo_advantage, "num_buckets")
    eta: float = hyper_of(erpo_advantage, "eta")
    sigma_target: float = hyper_of(erpo_advantage, "sigma_target")
    delta: float = hyper_of(erpo_advantage, "delta")


@dataclass
class EntropyBonusAdvantageConfig(Checked):
    """Hyper-parameters of the `entropy_bonus` estimator, `algorithm.entropy_bonus`, arXiv 2506.14758.

    Attributes:
        scale: factor of the entropy, >= 0.
        kappa: the bonus is at most |A| / kappa, > 0.
    """

    method: ClassVar[str] = "entropy_bonus"
    where: ClassVar[str] = "algorithm.entropy_bonus"

    scale: float = hyper_of(entropy_bonus_advantage, "scale")
    kappa: float = hyper_of(entropy_bonus_advantage, "kappa")


@dataclass
class EntropyShapedConfig(Checked):
    """What the estimators of arXiv 2508.04349 have in common.

    Attributes:
        entropy_low, entropy_high: entropies are clipped to this range, nats, 0 <= low <= high.
        scope: entropies are compared within each `prompt` or over the whole `batch`.
    """

    entropy_low: float = hyper_of(gtpo_advantage, "entropy_low")
    entropy_high: float = hyper_of(gtpo_advantage, "entropy_high")
    scope: str = hyper_of(gtpo_advantage, "scope")

    @classmethod
    def _contradictions(cls, values: Mapping[str, Any]) -> list[str]:
        return gtpo.contradictions(values)


@dataclass
class GTPOAdvantageConfig(EntropyShapedConfig):
    """Hyper-parameters of the `gtpo` estimator, `algorithm.gtpo`; see docs/methods/gtpo.md.

    Attributes:
        alpha1: weight of the outcome, >= 0.
        alpha2: weight of the entropy, >= 0.
        normalise_over: `all` tokens, or those of successful and unsuccessful rows each on their `own`.
    """

    method: ClassVar[str] = "gtpo"
    where: ClassVar[str] = "algorithm.gtpo"

    alpha1: float = hyper_of(gtpo_advantage, "alpha1")
    alpha2: float = hyper_of(gtpo_advantage, "alpha2")
    normalise_over: str = hyper_of(gtpo_advantage, "normalise_over")


@dataclass
class GRPOSAdvantageConfig(EntropyShapedConfig):
    """Hyper-parameters of the `grpo_s` estimator, `algorithm.grpo_s`; see docs/methods/grpo_s.md.

    Attributes:
        beta1: weight of the outcome, >= 0.
        beta2: weight of the entropy, >= 0.
    """

    method: ClassVar[str] = "grpo_s"
    where: ClassVar[str] = "algorithm.grpo_s"

    beta1: float = hyper_of(grpo_s_advantage, "beta1")
    beta2: float = hyper_of(grpo_s_advantage, "beta2")


def _derived(method: Method) -> type[Any]:
    """The hyper-parameter class of a method of the table, made of its signature: each checked parameter that neither
    verl's actor configuration nor its aggregation sets."""
    loss = isinstance(method, PolicyLoss)
    taken = {"loss_agg_mode", *(method.settings if isinstance(method, PolicyLoss) else ())}
    names = [name for name in checks_of(method.implementation) if name not in taken]
    base = MethodConfig if loss else Checked
    of_class = {"method": method.name, "where": base.where if loss else f"algorithm.{method.name}"}
    mode = [("loss_mode", str, field(default=method.name))] if loss else []
    hypers = [(name, Any, hyper_of(method.implementation, name)) for name in names]
    made = make_dataclass(method.derived_name, [*mode, *hypers], bases=(base,), namespace=of_class)
    made.__module__ = __name__
    return made


@cache
def __getattr__(name: str) -> Any:
    """The derived classes, for `_target_` and for pickles."""
    for method in (*POLICY_LOSSES.values(), *ESTIMATORS.values()):
        if not method.config and method.derived_name == name:
            return _derived(method)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
