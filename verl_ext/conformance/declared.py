"""What the battery has to know about a method that its signature does not say.

A method of verl_ext says it in verl_ext.plugin. Those of verl, and yours, are declared here: most need nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from verl_ext.conformance import clip_forms
from verl_ext.conformance.clip_forms import Form


@dataclass(frozen=True)
class Declaration:
    """How to call a method, and which cells its own equation excludes.

    Attributes:
        policy_loss: hyper-parameters -> the object that stands at `config.policy_loss`; verl's `PolicyLossConfig`
            with these keys if None.
        actor: keys of verl's `ActorConfig` that the method needs.
        options: hyper-parameter -> values to try, the default first.
        exempt: property, or `property[option=value|value,option=value]` for the cases with these choices only, or
            `property:part` -> the reason; `*` stands for every property. Shown with every table.
        skip: why the method cannot be tested at all; empty if it can.
        clip: what the loss does off-policy, for `off_policy` and `clipping`: a name in `clip_forms.FORMS`, or a
            function as described there; the two do not apply if None.
    """

    policy_loss: Callable[[Mapping[str, Any]], Any] | None = None
    actor: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    exempt: Mapping[str, str] = field(default_factory=dict)
    skip: str = ""
    clip: str | Form | None = None


def declare(kind: str, name: str, **what: Any) -> None:
    """Declare how a loss or an estimator of your own is to be tested; call it where you register the method.

    Args:
        kind: `loss` or `estimator`.
        name: the name in verl's registry.
        **what: attributes of `Declaration`.

    Example:
        >>> declare("loss", "mine", options={"beta": (0.1, 1.0)}, exempt={"on_policy[beta=1.0]": "equation 7"})
        >>> declaration_of("loss", "mine").options
        {'beta': (0.1, 1.0)}
    """
    _declared_by_kind(kind)[name] = Declaration(**what)


def declaration_of(kind: str, name: str) -> Declaration:
    """The declaration of a method, an empty one if it has none."""
    return _declared_by_kind(kind).get(name, Declaration())


def _declared_by_kind(kind: str) -> dict[str, Declaration]:
    if kind not in TABLES:
        raise ValueError(f"kind={kind!r} is not one of {', '.join(TABLES)}")
    return TABLES[kind]


def _bypass_mode(options: Mapping[str, Any]) -> Any:
    from verl.trainer.config.algorithm import RolloutCorrectionConfig
    from verl.workers.config import PolicyLossConfig

    return PolicyLossConfig(loss_mode="bypass_mode", rollout_correction=RolloutCorrectionConfig(**options))


_ONE_A_ROW = "written for one advantage a row, as outcome rewards give; the code says so"

_NO_BOUND = "its equation has no bound"

_LOSSES = {
    "vanilla": Declaration(clip="dual_ppo"),
    "gspo": Declaration(clip="ppo"),
    "cispo": Declaration(clip="cispo"),
    "gpg": Declaration(clip="log_prob", exempt={"clipping": _NO_BOUND}),
    "dppo_tv": Declaration(clip=clip_forms.dppo_tv),
    "dppo_kl": Declaration(clip=clip_forms.dppo_kl),
    "clip_cov": Declaration(
        exempt={"on_policy": "its equation drops the gradient of tokens with a great covariance, on-policy too"}
    ),
    "sapo": Declaration(
        exempt={
            "on_policy:value": "the gate of its equation is 2/tau at a ratio of 1; its gradient is tested",
            "clipping": _NO_BOUND,
        },
        clip=clip_forms.sapo,
    ),
    "geo_mean": Declaration(
        exempt={
            "on_policy[advantages=token]": _ONE_A_ROW,
            "sign[advantages=token]": _ONE_A_ROW,
        },
        clip="gmpo",
    ),
    # Without dro_beta the loss refuses to run, and verl has no default for it.
    "dro": Declaration(options={"dro_beta": (0.1,)}, exempt={"clipping": _NO_BOUND}, clip=clip_forms.dro),
    "bypass_mode": Declaration(
        policy_loss=_bypass_mode,
        options={"loss_type": ("ppo_clip", "reinforce"), "rollout_is": ("sequence", "token", None)},
        exempt={"rollout_weights": "its documentation says that the weights are computed inside, the argument ignored"},
    ),
}

_WHITENED = "its equation normalises over the whole batch after the group, which moves every row off 0"

_PASS_AT_K = "Pass@k is defined for two rows or more of a prompt; it raises and says so"

_ESTIMATORS = {
    "gdpo": Declaration(exempt={"zero_spread": _WHITENED}),
    "reinforce_plus_plus_baseline": Declaration(exempt={"zero_spread": _WHITENED}),
    "reinforce_plus_plus": Declaration(skip="compares no rows of one prompt: it has no `index`"),
    "grpo_passk": Declaration(
        exempt={"singleton": _PASS_AT_K, "*[row_alone=True]": _PASS_AT_K},
    ),
}

TABLES: dict[str, dict[str, Declaration]] = {"loss": _LOSSES, "estimator": _ESTIMATORS}
