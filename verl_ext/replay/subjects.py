"""The losses of a replay: presets of configs/algo, or names of verl's registry, with settings of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from verl_ext.checks.methods import policy_loss_faults
from verl_ext.composing.compose import options
from verl_ext.composing.errors import ConfigError
from verl_ext.hyper import nearest
from verl_ext.replay.faults import ReplayError
from verl_ext.train import compose

ACTOR = "actor_rollout_ref.actor."
POLICY_LOSS = f"{ACTOR}policy_loss."
# verl's actor configuration asks for it, and a replay has no micro-batches.
NEUTRAL = (f"{ACTOR}ppo_micro_batch_size_per_gpu=1",)


@dataclass(frozen=True)
class Subject:
    """A loss, ready to be called.

    Attributes:
        label: what it is called in the table.
        name: key in verl's registry.
        function: verl's policy loss signature.
        actor: verl's actor configuration.
        method: the entry of `verl_ext.plugin.POLICY_LOSSES`, for losses of ours.
        hyper: resolved hyper-parameters, JSON-able.
        notes: what a training run with this configuration has beside the policy loss.
    """

    label: str
    name: str
    function: Callable[..., Any]
    actor: Any
    method: Any
    hyper: Mapping[str, Any]
    notes: tuple[str, ...]


def build(losses: Sequence[str], settings: Sequence[str] = ()) -> list[Subject]:
    """Compose every loss.

    Args:
        losses: `NAME` or `LABEL=NAME`; a preset of configs/algo, otherwise a name in verl's registry.
        settings: `LABEL:key=value`; a key without a dot is a hyper-parameter of the loss or, where it has none of that
            name, a key of verl's actor configuration.

    Raises:
        ReplayError: with every fault.

    Example:
        >>> build(["wide=espo"], ["wide:alpha=0.3"])[0].hyper["alpha"]
        0.3
    """
    import verl  # noqa: F401 - its plugin mechanism registers our losses

    faults = [] if losses else ["no loss was named; give --loss at least once, for instance --loss espo --loss gspo"]
    named = [(label, name or label) for label, _, name in (text.partition("=") for text in losses)]
    labels = [label for label, _ in named]
    faults += [f"--loss {label} twice; tell them apart with --loss LABEL={label}" for label in _repeated(labels)]
    given: dict[str, list[str]] = {label: [] for label in labels}
    for text in settings:
        label, colon, assignment = text.partition(":")
        if not colon or "=" not in assignment:
            faults.append(f"--set {text}: write LOSS:key=value, for instance espo:alpha=0.2")
        elif label not in given:
            faults.append(f"--set {text}: no --loss {label}{nearest(label, labels)}")
        else:
            given[label].append(assignment)
    built = []
    for label, name in named:
        try:
            built.append(_subject(label, name, given[label]))
        except ReplayError as error:
            faults += [f"--loss {label}: {fault}" for fault in error.faults]
    if faults:
        raise ReplayError(faults)
    return built


def _repeated(labels: Sequence[str]) -> list[str]:
    return sorted({label for label in labels if labels.count(label) > 1})


def _subject(label: str, name: str, assignments: Sequence[str]) -> Subject:
    from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY
    from verl.utils.config import omega_conf_to_dataclass

    from verl_ext import plugin

    presets = options("algo")
    if name not in presets and name not in POLICY_LOSS_REGISTRY:
        raise ReplayError(
            [f"no preset of configs/algo and no loss of verl's{nearest(name, [*presets, *POLICY_LOSS_REGISTRY])}"]
        )
    choice = [f"algo={name}"] if name in presets else [f"{POLICY_LOSS}loss_mode={name}"]
    if name not in presets and name in plugin.POLICY_LOSSES:
        # A method of another package has no preset that names its class.
        choice.append(f"{POLICY_LOSS}_target_={plugin.POLICY_LOSSES[name].config_path}")
    try:
        config = _composed((*choice, *NEUTRAL))
        loss = config.actor_rollout_ref.actor.policy_loss.loss_mode
        method = plugin.POLICY_LOSSES.get(loss)
        unknown = _unknown(assignments, loss, method, config)
        if unknown:
            raise ReplayError(unknown)
        if assignments:
            config = _composed((*choice, *NEUTRAL, *(spelt_out(text, method) for text in assignments)))
    except ConfigError as error:
        raise ReplayError([line.strip(" -") for line in str(error).splitlines()[1:] or [str(error)]]) from error
    actor = config.actor_rollout_ref.actor
    faults = policy_loss_faults(actor.policy_loss, loss)
    if method is not None and actor.loss_agg_mode not in method.aggregations:
        faults.append(f"loss_agg_mode={actor.loss_agg_mode}: it takes {' or '.join(method.aggregations)}")
    if faults:
        raise ReplayError(faults)
    built = omega_conf_to_dataclass(actor)
    hyper = plugin.resolved_hyper_parameters(loss, built)
    return Subject(label, loss, POLICY_LOSS_REGISTRY[loss], built, method, hyper, tuple(_left_out(label, config)))


def _unknown(assignments: Sequence[str], loss: str, method: Any, config: Any) -> list[str]:
    """Settings by a bare name that neither the loss nor the actor has; Hydra would look among all of verl's keys."""
    names = [assignment.partition("=")[0] for assignment in assignments]
    own = _own(method)
    return [
        f"{loss} has no hyper-parameter {name}, nor has verl's actor such a key{nearest(name, own)}"
        for name in names
        if "." not in name and not name.startswith("+") and name not in {*own, *config.actor_rollout_ref.actor}
    ]


def _own(method: Any) -> list[str]:
    """Names of a loss's hyper-parameters; for a loss of verl's, those that all of its losses share."""
    from verl.workers.config.actor import PolicyLossConfig

    return [field.name for field in fields(PolicyLossConfig)] if method is None else method.config_type().names()


@cache
def _composed(arguments: tuple[str, ...]) -> Any:
    """The configuration, which takes Hydra a second; not to be changed."""
    return compose(arguments).config


def spelt_out(assignment: str, method: Any) -> str:
    """A setting as Hydra wants it; see `build`."""
    key, _, value = assignment.partition("=")
    bare = key.lstrip("+")
    if "." not in bare:
        bare = f"{POLICY_LOSS if bare in _own(method) and bare != 'loss_mode' else ACTOR}{bare}"
    elif key != bare:
        return assignment
    # The configuration class of a loss knows its keys, Hydra's composed file does not list the optional ones.
    return f"{'++' if bare.startswith(POLICY_LOSS) else ''}{bare}={value}"


def _left_out(label: str, config: Any) -> list[str]:
    """Parts of the configuration that are no part of the policy loss."""
    actor, found = config.actor_rollout_ref.actor, []
    if actor.entropy_coeff:
        found.append(f"{label}: the entropy term (entropy_coeff={actor.entropy_coeff:g}) is left out")
    if actor.use_kl_loss and actor.kl_loss_coef:
        found.append(f"{label}: the KL term (kl_loss_coef={actor.kl_loss_coef:g}) is left out")
    return found
