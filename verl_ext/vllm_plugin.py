"""What vLLM loads from us (entry point group ``vllm.general_plugins``), in its front end, engine and workers."""

from __future__ import annotations

from verl_ext.platform import cpu
from verl_ext.rollout import tap


def install() -> None:
    """On the CPU platform keep weights loadable; tap the sampler where that is asked for. Otherwise do nothing."""
    if cpu.chosen():
        from verl_ext.platform import patches, vllm_weights

        patches.install()
        vllm_weights.keep_loadable()
    # After the patches: only they make the CPU build's version known under the name vllm.
    tap.install()
