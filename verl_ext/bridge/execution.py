"""Say which loss really ran, with which hyper-parameters, and stop a run in which it is not the configured one.

Every worker prints one line at its first update::

    verl_ext.execution {"loss": "espo", "hyper_parameters": {...}, "verl_ext": "0.1.0", ...}

and sends a checksum of loss, hyper-parameters and plugin version along with the actor's metrics. The controller works
out the same checksum from the configuration and compares: a worker on another version of the plugin, a worker in
which the bridge was not installed, or a registry entry that something else replaced, ends the run.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from importlib.metadata import version
from typing import Any

from verl_ext.bridge.fields import entropy_source

CHECKSUM_METRIC = "actor/verl_ext/execution"
PREFIX = "verl_ext.execution"


class ExecutionMismatchError(RuntimeError):
    """What the workers ran is not what the configuration asks for."""


def identity(actor_config: Any) -> dict[str, Any]:
    """Loss, resolved hyper-parameters and plugin version of an instantiated actor configuration."""
    from verl.trainer.ppo.core_algos import get_policy_loss_fn

    from verl_ext import modules, plugin

    loss = actor_config.policy_loss.get("loss_mode", "vanilla")
    function = get_policy_loss_fn(loss)
    function = getattr(function, "implementation", function)
    return {
        "loss": loss,
        "function": f"{function.__module__}.{getattr(function, '__qualname__', repr(function))}",
        "hyper_parameters": plugin.resolved_hyper_parameters(loss, actor_config),
        "verl_ext": version("verl-ext"),
        "modules": modules.digests({**modules.handed_on(os.environ), **dict.fromkeys(modules.home(function))}),
    }


def checksum(what: dict[str, Any]) -> float:
    """24 bits of a CRC, so that averaging equal values over workers stays exact in float32."""
    return float(zlib.crc32(json.dumps(what, sort_keys=True, default=str).encode()) & 0xFFFFFF)


class ExecutionReport:
    """Prints the line once in this process, and supplies the metrics that go with every micro-batch."""

    def __init__(self) -> None:
        self._checksum: float | None = None

    def after_call(self, config: Any, model_output: Any, data: Any, metrics: dict[str, Any]) -> dict[str, Any]:
        from verl.utils.metric import AggregationType, Metric

        if self._checksum is None:
            what = identity(config)
            self._checksum = checksum(what)
            noise = first_ratio_noise(model_output, data)
            line = {**what, **noise, "rank": int(os.environ.get("RANK", 0)), "pid": os.getpid()}
            line["entropy_source"] = entropy_source(data)
            line["fields"] = sorted(str(key) for key in data.keys())
            # Through stdout rather than logging: verl raises its log level, and this line must be seen.
            sys.stdout.write(f"{PREFIX} {json.dumps(line, sort_keys=True, default=str)}\n")
            sys.stdout.flush()
            warn_about_noise(noise["on_policy_ratio_noise"], metrics, config)
        extra = {CHECKSUM_METRIC: self._checksum, **_weight_sync_report()}
        return Metric.from_dict(extra, aggregation=AggregationType.MEAN)


def _weight_sync_report() -> dict[str, float]:
    """What the CPU platform found at the latest weight sync; nothing on other platforms."""
    module = sys.modules.get("verl_ext.platform.weight_sync")
    return {f"actor/{key}": value for key, value in module.last_report.items()} if module else {}


def first_ratio_noise(model_output: Any, data: Any) -> dict[str, float | None]:
    """Largest |log pi_theta - log pi_old| over the first micro-batch, where both are the same policy.

    None when that micro-batch holds padding rows only.
    """
    from verl.workers.utils.padding import no_padding_2_padding

    log_prob = no_padding_2_padding(model_output["log_probs"], data).detach().float()
    columns = data.select("old_log_probs", "response_mask").to_padded_tensor()
    difference = (log_prob - columns["old_log_probs"]).abs()
    valid = columns["response_mask"].bool()
    return {"on_policy_ratio_noise": float(difference[valid].max()) if bool(valid.any()) else None}


def warn_about_noise(noise: float | None, metrics: dict[str, Any], config: Any) -> None:
    """Warn when rounding alone moves the ratio by more than a quarter of the clip width."""
    widths = [_value(v) for k, v in metrics.items() if k.endswith("/eps") and _value(v) > 0]
    width = min(widths) if widths else float(config.clip_ratio_low or config.clip_ratio)
    if noise is not None and noise > width / 4:
        sys.stderr.write(
            f"verl_ext: on the first, on-policy update the log-ratio differs from 0 by up to {noise:.2g}, more than a "
            f"quarter of the clip width {width:.2g}: clipping would act on rounding noise. Compute the log-probs in "
            "float32, or widen the clip range.\n"
        )


def _value(metric: Any) -> float:
    values = getattr(metric, "values", metric)
    return float(values[0] if isinstance(values, list) else values)


def expected(config: Any) -> bool:
    """Whether verl calls a policy loss at all: distillation may take its place."""
    from verl.trainer.distillation import is_distillation_enabled

    distillation = config.get("distillation", None)
    if not is_distillation_enabled(distillation):
        return True
    loss = distillation.distillation_loss
    return bool(loss.use_task_rewards or loss.use_policy_gradient)


def compare(metrics: dict[str, Any], config: Any) -> None:
    """On the controller, after an update: what ran must be what ``config`` (the trainer's) says.

    Raises:
        ExecutionMismatchError: naming the configured loss and what can have replaced it.
    """
    from verl.utils.config import omega_conf_to_dataclass

    ran = metrics.pop(CHECKSUM_METRIC, None)
    wanted = identity(omega_conf_to_dataclass(config.actor_rollout_ref.actor))
    if ran is None:
        raise ExecutionMismatchError(
            "the workers did not report which policy loss they ran: verl_ext is not loaded in them. "
            "Check that verl-ext is installed on every node (`verl-ext doctor`)."
        )
    if abs(ran - checksum(wanted)) > 0.5:
        raise ExecutionMismatchError(
            f"the workers ran another policy loss than the configuration asks for. Expected: {wanted}. "
            f"Each worker printed what it ran in a line that begins with {PREFIX!r}; compare the two."
        )
