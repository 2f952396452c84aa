"""A run's identity, read out of verl's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from verl_ext.run import name as run_name
from verl_ext.run.checkpoint import identity
from verl_ext.run.checkpoint.identity import Identity, Part

_ACTOR = ("entropy_coeff", "use_kl_loss", "kl_loss_coef", "kl_loss_type", "ppo_epochs", "ppo_mini_batch_size")
_DATA = ("train_batch_size", "train_max_samples", "shuffle", "max_prompt_length", "max_response_length")
# Filled in by verl's trainer, from what a resume may change.
_NO_SETTING = ("total_training_steps", "_target_")


def of(config: Any, known: Mapping[str, list[Any]] | None = None) -> Identity:
    """What the run of this configuration is.

    Args:
        config: verl's.
        known: `Identity.files` of an earlier attempt.
    """
    model, actor = config.actor_rollout_ref.model, config.actor_rollout_ref.actor
    paths = [str(path) for path in run_name.listed(config.data.train_files)]
    files = identity.files_seen(paths, known or {})
    tokenizer = str(model.get("tokenizer_path", None) or model.path)
    templates = {"template": identity.template_of(tokenizer), "custom_chat_template": model.get("custom_chat_template")}
    parts = {
        "loss": loss(actor),
        "estimator": estimator(config.algorithm),
        "model": Part(str(model.path), identity.model_key(str(model.path))),
        "adapter": adapter(model),
        "tokenizer": Part(tokenizer, identity.tokenizer_key(tokenizer), templates),
        "optimizer": optimizer(actor.get("optim", None) or {}),
        "data": Part(
            ", ".join(paths),
            None if files is None else identity.digest([seen[2] for seen in files.values()]),
            {key: _plain(config.data.get(key, None)) for key in _DATA},
        ),
        "versions": Part("", None, versions()),
        "seed": Part("", None, {key: _select(config, key) for key in run_name.SEEDS}),
    }
    return Identity(parts, files or {})


def loss(actor: Any) -> Part:
    """The policy loss with its hyper-parameters in force."""
    from verl_ext import plugin

    name = str(actor.policy_loss.get("loss_mode", "vanilla"))
    settings = {**_scalars(actor.policy_loss), **plugin.resolved_hyper_parameters(name, actor)}
    return Part(name, name, {**settings, **{key: actor.get(key) for key in _ACTOR}})


def estimator(algorithm: Any) -> Part:
    """The advantage estimator with its hyper-parameters in force, and what else stands beside it."""
    from verl_ext import plugin

    name = str(algorithm.adv_estimator)
    own = plugin.ESTIMATORS[name].resolve(algorithm) if name in plugin.ESTIMATORS else {}
    return Part(name, name, {**_scalars(algorithm), **own})


def adapter(model: Any) -> Part:
    """LoRA's shapes: shards of other shapes, or of whole weights, cannot be loaded."""
    rank = model.get("lora_rank", 0) or (model.get("lora", None) or {}).get("rank", 0)
    targets = sorted(map(str, run_name.listed(model.get("target_modules", None))))
    name = f"LoRA of rank {rank} on {', '.join(targets)}" if rank else "no LoRA"
    return Part(name, name, {"alpha": model.get("lora_alpha", None)} if rank else {})


def optimizer(optim: Any) -> Part:
    """The kind of optimizer, whose state is in the checkpoint; its learning rate and the like are settings."""
    name = str(optim.get("optimizer", None))
    return Part(name, name, _scalars(optim))


def versions() -> dict[str, str]:
    """Of what computes a run, by distribution: vLLM's build for the CPU is one of its own."""
    from verl_ext.evaluation.request import engine_versions

    return {"verl": version("verl"), "verl-ext": version("verl-ext"), **engine_versions()}


def _scalars(node: Any) -> dict[str, Any]:
    found = {str(key): _plain(node.get(key)) for key in node if key not in _NO_SETTING}
    return {key: value for key, value in found.items() if not isinstance(value, dict | None)}


def _plain(value: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _select(config: Any, key: str) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.select(config, key)
