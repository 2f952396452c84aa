"""The tap: vLLM's sampler computes an entropy where it would compute the rank of the sampled token.

Both are one pass over the same row of V numbers, and nobody in reinforcement learning reads the rank. The tap acts
only where the log-probs of the sampled tokens alone are asked for (``logprobs=0``) and are those of the distribution
that was sampled from (``processed_logprobs``); prompt log-probs, ``logprobs >= 1`` and every other request stay as
they are. Off unless asked for, see `enable`.

vLLM has two samplers, and both are tapped at the single symbol that makes ranks:

==============================  =========================================  ==========================================
runner                          sampling, and speculative decoding         where the rank is made
==============================  =========================================  ==========================================
V1 (also the CPU build)         ``vllm.v1.sample.sampler``,                ``batched_count_greater_than``
                                ``vllm.v1.sample.rejection_sampler``
V2                              ``vllm.v1.worker.gpu.sample.sampler``,     the Triton kernel ``_ranks_kernel`` of
                                ``...gpu.spec_decode.rejection_sampler``   ``vllm.v1.worker.gpu.sample.logprob``
==============================  =========================================  ==========================================
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import wrapt

SUPPORTED = ("0.24.0", "0.28.0")
VARIABLE = "VERL_EXT_ROLLOUT_ENTROPIES"
MODE = "processed_logprobs"

# True while log-probs of sampled tokens, and nothing else, are being gathered.
_tapping: ContextVar[bool] = ContextVar("verl_ext_tapping", default=False)
# True inside a sampler of the V2 runner that returns log-probs of the processed distribution.
_processed: ContextVar[bool] = ContextVar("verl_ext_processed", default=False)

_installed = False


class UnsupportedVLLMError(RuntimeError):
    """The installed vLLM is not one whose samplers the tap was written for."""


def enable() -> None:
    """Tap the engines of this process and of every process it starts from now on."""
    os.environ[VARIABLE] = "1"
    install()


def install() -> None:
    """Arrange the changes where the environment asks for them; each is made when vLLM imports the module.

    Raises:
        UnsupportedVLLMError: the tap is asked for and the installed vLLM is another than `SUPPORTED`.
    """
    global _installed
    if _installed or os.environ.get(VARIABLE) != "1":
        return
    check_version()
    for module, apply in TAPS.items():
        wrapt.register_post_import_hook(apply, module)
    _installed = True


def version_fault() -> str | None:
    """Why the tap does not fit the installed vLLM, or None."""
    from importlib.metadata import version

    found = version("vllm").split("+")[0]
    if found in SUPPORTED:
        return None
    return f"entropies from the rollout work with vLLM {' and '.join(SUPPORTED)}; installed is vLLM {found}"


def check_version() -> None:
    """Refuse an unsupported vLLM, naming both versions."""
    fault = version_fault()
    if fault:
        raise UnsupportedVLLMError(f"{fault}. Install one of them, or unset {VARIABLE}.")


@contextlib.contextmanager
def bound(variable: ContextVar[bool], value: bool) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def tap_v1_sampler(module: ModuleType) -> None:
    """``Sampler.forward`` decides, ``batched_count_greater_than`` hands out what was decided."""
    forward, count = module.Sampler.forward, module.batched_count_greater_than

    @functools.wraps(forward)
    def tapped_forward(
        self: Any,
        logits: Any,
        sampling_metadata: Any,
        predict_bonus_token: bool = False,
        logprobs_mode_override: str | None = None,
    ) -> Any:
        mode = logprobs_mode_override or self.logprobs_mode
        sampled_only = sampling_metadata.max_num_logprobs == 0 and not sampling_metadata.logprob_token_ids
        with bound(_tapping, mode == MODE and sampled_only):
            return forward(self, logits, sampling_metadata, predict_bonus_token, logprobs_mode_override)

    @functools.wraps(count)
    def tapped_count(x: Any, values: Any) -> Any:
        if not _tapping.get():
            return count(x, values)
        from verl_ext.rollout.entropy import tagged_entropies

        return tagged_entropies(x)

    module.Sampler.forward = tapped_forward
    module.batched_count_greater_than = tapped_count  # type: ignore[attr-defined]


def tap_v1_rejection_sampler(module: ModuleType) -> None:
    """The rows are those of the target model, one for each token that may be accepted."""
    cls = module.RejectionSampler
    original = cls._get_logprobs_tensors

    @functools.wraps(original)
    def _get_logprobs_tensors(self: Any, max_num_logprobs: int, *args: Any, **kwargs: Any) -> Any:
        with bound(_tapping, self.sampler.logprobs_mode == MODE and max_num_logprobs == 0):
            return original(self, max_num_logprobs, *args, **kwargs)

    cls._get_logprobs_tensors = _get_logprobs_tensors


def tap_v2_logprob(module: ModuleType) -> None:
    """Stand in for the kernel that makes ranks; its caller, which also serves prompt log-probs, stays as it is."""
    original = module._ranks_kernel

    class Kernel:
        def __getitem__(self, grid: Any) -> Callable[..., Any]:
            if not _tapping.get():
                return original[grid]
            from verl_ext.rollout.kernels import tagged_entropy_kernel

            return tagged_entropy_kernel[grid]

    module._ranks_kernel = Kernel()  # type: ignore[attr-defined]


def tap_v2_sampler(module: ModuleType) -> None:
    _tap_v2_gathering(module)
    _tap_v2_call(module.Sampler, lambda sampler: sampler.logprobs_mode)


def tap_v2_rejection_sampler(module: ModuleType) -> None:
    _tap_v2_gathering(module)
    _tap_v2_call(module.RejectionSampler, lambda rejection_sampler: rejection_sampler.sampler.logprobs_mode)


def _tap_v2_call(cls: Any, mode: Callable[[Any], str]) -> None:
    """Note, for as long as the sampler runs, whether its log-probs are those of the processed distribution."""
    original = cls.__call__

    @functools.wraps(original)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        with bound(_processed, mode(self) == MODE):
            return original(self, *args, **kwargs)

    cls.__call__ = __call__


def _tap_v2_gathering(module: ModuleType) -> None:
    """The function that gathers log-probs, under the name that this module imported it by."""
    (name,) = [name for name in ("compute_topk_scores", "compute_topk_logprobs") if hasattr(module, name)]
    original = getattr(module, name)

    @functools.wraps(original)
    def gather(logits: Any, num_logprobs: int, *args: Any, max_per_req_token_ids: int = 0, **kwargs: Any) -> Any:
        with bound(_tapping, _processed.get() and num_logprobs == 0 and max_per_req_token_ids == 0):
            return original(logits, num_logprobs, *args, max_per_req_token_ids=max_per_req_token_ids, **kwargs)

    setattr(module, name, gather)


TAPS: dict[str, Callable[[ModuleType], None]] = {
    "vllm.v1.sample.sampler": tap_v1_sampler,
    "vllm.v1.sample.rejection_sampler": tap_v1_rejection_sampler,
    "vllm.v1.worker.gpu.sample.logprob": tap_v2_logprob,
    "vllm.v1.worker.gpu.sample.sampler": tap_v2_sampler,
    "vllm.v1.worker.gpu.spec_decode.rejection_sampler": tap_v2_rejection_sampler,
}
