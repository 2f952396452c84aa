"""What vLLM loads from us (entry point group ``vllm.general_plugins``), in its front end, engine and workers."""

from __future__ import annotations

from verl_ext.platform import cpu


def install() -> None:
    """On the CPU platform, keep vLLM's weights loadable after they have been loaded once; elsewhere do nothing."""
    if cpu.chosen():
        from verl_ext.platform import patches, vllm_weights

        patches.install()
        vllm_weights.keep_loadable()
