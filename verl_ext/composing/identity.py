"""The keys that make a preset the method that it is; with another value of one of them another method would run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from verl_ext.plugin import Method

ACTOR = "actor_rollout_ref.actor"
LOSS = f"{ACTOR}.policy_loss.loss_mode"
CLASS = f"{ACTOR}.policy_loss._target_"
ESTIMATOR = "algorithm.adv_estimator"
AGGREGATION = f"{ACTOR}.loss_agg_mode"
LOW, HIGH = f"{ACTOR}.clip_ratio_low", f"{ACTOR}.clip_ratio_high"
BONUS = f"{ACTOR}.entropy_coeff"

PROVIDERS = {"entropy": f"{ACTOR}.calculate_entropy", "ref_log_prob": f"{ACTOR}.use_kl_loss"}
"""Token data that presets switch on for their methods, and the switch."""

OWN_AGGREGATION = ("geo_mean", "sapo")
"""Losses of verl's that aggregate in one way, whatever ``loss_agg_mode`` says."""

Values = dict[str, tuple[Any, Any]]
"""Key -> the value found, and the preset's."""


def _never(config: Any) -> bool:
    return False


def _higher(config: Any) -> bool:
    from verl_ext.plugin import clip_range

    low, high = clip_range(config.actor_rollout_ref.actor)
    return bool(high > low)


SPECIAL: Mapping[str, tuple[tuple[str, ...], Callable[[Any], bool]]] = {
    "clip_higher": ((LOW, HIGH), _higher),
    "dr_grpo": (("algorithm.norm_adv_by_std_in_grpo", AGGREGATION), _never),
    "lpo": ((f"{ACTOR}.policy_loss.entropy_clip",), _never),
    "max_entropy": ((BONUS,), lambda config: (OmegaConf.select(config, BONUS) or 0) > 0),
    "min_entropy": ((BONUS,), lambda config: (OmegaConf.select(config, BONUS) or 0) < 0),
}
"""Presets that are more than a loss with an estimator: the keys, and whether the method is kept with other values."""


def broken(name: str, config: DictConfig, reference: DictConfig) -> Values:
    """The keys of the preset's identity that have another value.

    Args:
        name: of the preset.
        config: what would run.
        reference: what the choice of the preset gives alone.
    """
    keys = [LOSS, CLASS, ESTIMATOR]
    if not honoured(OmegaConf.select(reference, LOSS), OmegaConf.select(config, AGGREGATION)):
        keys.append(AGGREGATION)
    keys += [PROVIDERS[field] for field in lacking(config, reference)]
    special, kept = SPECIAL.get(name, ((), _never))
    if not kept(config):
        keys += special
    return differences(keys, config, reference)


def honoured(loss: str, aggregation: str) -> bool:
    """Whether the loss aggregates as it is told."""
    from verl_ext.plugin import POLICY_LOSSES

    if loss in POLICY_LOSSES:
        return aggregation in POLICY_LOSSES[loss].aggregations
    return loss not in OWN_AGGREGATION


def lacking(config: DictConfig, reference: DictConfig) -> list[str]:
    """Token data that the preset's method needs and nothing in `config` provides.

    The method's hyper-parameters, which decide on it, are those of `config` where it is chosen there as well.
    """
    from verl_ext.rollout import source

    chosen, wanted = methods(config), methods(reference)
    wanted |= {name: chosen[name] for name in wanted if name in chosen}
    needed = {field for method, node in wanted.values() for field in method.needed(node)}
    absent = {field for field, _ in source.absent(config)}
    return [field for field in PROVIDERS if field in needed & absent]


def methods(config: DictConfig) -> dict[str, tuple[Method, Any]]:
    """Loss and estimator, where they are ours: by kind and name, with the node that holds the hyper-parameters."""
    from verl_ext.plugin import ESTIMATORS, POLICY_LOSSES

    loss, estimator = (str(OmegaConf.select(config, key)) for key in (LOSS, ESTIMATOR))
    found: dict[str, tuple[Method, Any]] = {}
    if loss in POLICY_LOSSES:
        found[f"loss {loss}"] = POLICY_LOSSES[loss], config.actor_rollout_ref.actor.policy_loss
    if estimator in ESTIMATORS:
        found[f"estimator {estimator}"] = ESTIMATORS[estimator], config.algorithm
    return found


def hyper_parameters(config: DictConfig) -> dict[str, Any]:
    """Every hyper-parameter of the methods of ours, by its key, with its default."""
    types = [method.config_type() for method, _ in methods(config).values()]
    return {f"{each.where}.{name}": default for each in types for name, default in each.defaults().items()}


def differences(keys: Iterable[str], config: DictConfig, reference: DictConfig) -> Values:
    """The values of the keys that are not equal.

    A hyper-parameter that is not set has its default; a key that the preset does not set may have any value.
    """
    defaults = hyper_parameters(reference)
    found = {key: _plain(OmegaConf.select(config, key), defaults.get(key)) for key in keys}
    own = {key: _within(config, reference, key, defaults.get(key, found[key])) for key in keys}
    return {key: (found[key], own[key]) for key in keys if found[key] != own[key]}


def _within(config: DictConfig, reference: DictConfig, key: str, default: Any) -> Any:
    """The value of the reference's key, its interpolations resolved in `config`."""
    node = raw(reference, key)
    if node is None:
        return default
    alone = OmegaConf.create({"value": node})
    alone._set_parent(config)
    return _plain(alone.value, default)


def _plain(value: Any, default: Any) -> Any:
    if value is None:
        return default
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def raw(config: DictConfig, key: str) -> Any:
    """The node of a key, not resolved; None where there is none."""
    node: Any = config
    for name in key.split("."):
        held = isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation()
        node = node._get_node(name, validate_access=False) if held else None
    return node


def keys(config: DictConfig, prefix: str = "") -> Iterable[str]:
    """Every dotted key."""
    for name in config:
        path = prefix + str(name)
        yield path
        node = config._get_node(name)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation():
            yield from keys(node, f"{path}.")
