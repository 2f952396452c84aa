"""Keep the weights of vLLM's CPU build loadable while it serves.

vLLM 0.28 packs weights for its CPU kernels once, after the first load, and then computes with the packed copies.
A later ``model.load_weights``, which is what verl's weight sync calls, fails for linear layers (the weight is gone),
and leaves a tied ``lm_head`` and the experts of a mixture stale without an error. Here the unpacked parameters stay
the only truth:

* linear layers and heads compute with ``torch.nn.functional.linear`` on the parameter itself,
* experts keep their parameters as loaded; the packed copy that the kernel needs is remade from them at each
  ``process_weights_after_loading``, which verl calls after the last bucket of every sync.

Upstream lines: vllm/model_executor/layers/utils.py:269, vllm/model_executor/layers/fused_moe/experts/cpu_moe.py:296,
vllm/model_executor/layers/fused_moe/unquantized_fused_moe_method.py:125.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import wrapt

from verl_ext.platform.fingerprint import digest

EXPECTED_VLLM = "0.28.0"


def keep_loadable() -> None:
    """Arrange the changes below; each is made when vLLM imports the module."""
    _check_version()
    for module, apply in (
        ("vllm.model_executor.layers.utils", unpacked_linear),
        ("vllm.model_executor.layers.fused_moe.experts.cpu_moe", packed_copies),
        ("vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method", repack_after_update),
    ):
        wrapt.register_post_import_hook(apply, module)


def _check_version() -> None:
    from importlib.metadata import version

    found = version("vllm").removesuffix("+cpu")
    if found != EXPECTED_VLLM:
        raise RuntimeError(
            f"verl_ext's CPU platform keeps the weights of vLLM {EXPECTED_VLLM} loadable and was not tested with "
            f"{found}, which is installed. Install requirements/cpu.lock (`make setup`)."
        )


def unpacked_linear(layers: ModuleType) -> None:
    """Every linear layer computes with its own, current parameter."""
    import torch

    def dispatch_cpu_unquantized_gemm(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear  # type: ignore[assignment]

    layers.dispatch_cpu_unquantized_gemm = dispatch_cpu_unquantized_gemm  # type: ignore[attr-defined]


def packed_copies(module: ModuleType) -> None:
    """Experts compute with a packed copy that is remade from the parameters, which stay as they were loaded."""
    cls = module.CPUUnquantizedExperts
    compute, prepare = cls.apply, cls.process_weights_after_loading

    def process_weights_after_loading(self: Any, layer: Any) -> None:
        names = ("w13_weight", "w2_weight")
        loaded = {name: getattr(layer, name) for name in names}
        prepare(self, layer)
        self.packed = tuple(getattr(layer, name) for name in names)
        self.packed_from = tuple(digest(parameter) for parameter in loaded.values())
        for name, parameter in loaded.items():
            setattr(layer, name, parameter)

    def apply(self: Any, hidden_states: Any, w1: Any, w2: Any, *args: Any, **kwargs: Any) -> Any:
        return compute(self, hidden_states, *self.packed, *args, **kwargs)

    cls.process_weights_after_loading = functools.wraps(prepare)(process_weights_after_loading)
    cls.apply = functools.wraps(compute)(apply)


def repack_after_update(module: ModuleType) -> None:
    """Remake the packed copies after an update as well; upstream packs at the first load only."""
    cls = module.UnquantizedFusedMoEMethod
    original = cls._setup_kernel

    @functools.wraps(original)
    def _setup_kernel(self: Any, layer: Any, w13: Any, w2: Any) -> None:
        is_update = self.moe_kernel is not None
        original(self, layer, w13, w2)
        if is_update:
            self.moe_kernel.fused_experts.process_weights_after_loading(layer)

    cls._setup_kernel = _setup_kernel
