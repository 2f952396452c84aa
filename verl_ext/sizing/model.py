"""The sizes of a model: parameters counted on the meta device, and the widths that activations have."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache

from verl_ext.sizing.configuration import build, parse, read

Targets = str | tuple[str, ...]


@dataclass(frozen=True)
class Cache:
    """What layers of one kind keep of a sequence while it is generated.

    Attributes:
        layers: number of them.
        heads: among which tensor parallelism divides keys and values; 0 if an earlier layer's are used again.
        width: values of a token and head, keys and values together; of latent attention those of its only head.
        window: tokens that are kept; None for all.
        state: values of a sequence however long it is, in the type of the weights.
        recurrent: further such values, in float32 if `float32`.
        float32: as the configuration's mamba_ssm_dtype says.
    """

    layers: int
    heads: int = 0
    width: int = 0
    window: int | None = None
    state: int = 0
    recurrent: int = 0
    float32: bool = False

    def attended(self, length: float) -> float:
        """Twice the mean number of tokens that one of a sequence attends to; a state costs next to nothing."""
        if not self.width:
            return 0
        reach = min(length, self.window or length)
        return 2 * reach - reach**2 / length if length else 0


@dataclass(frozen=True)
class Model:
    """What the formulas need to know of a model.

    Attributes:
        name: as it was asked for.
        source: where its configuration was read; `unverified` if nobody has compared it with the hub's.
        total: all parameters, a shared embedding once.
        active: those that one token uses: all but the experts that it is not sent to.
        embedding: of the input embedding.
        head: of the output layer; 0 where it is the input embedding.
        expert: of all experts of all layers.
        replicated: vectors and routers, which tensor parallelism leaves whole.
        largest_layer: of the largest layer.
        matrices: entries of all matrices that a token is multiplied with, the output layer included.
        vocabulary: V.
        layers: number of them.
        hidden: width of the residual stream.
        query: heads x dimensions of a head; where its keys and values differ in width, of the mean.
        key_value: the same for keys, and for values, as they are while training.
        heads_key_value: heads of keys, and of values.
        width: inner width of the gated feed-forward part that a token meets, the mean of all layers: a third of its
            entries a hidden dimension; of experts, of all it is sent to.
        experts: experts of a layer, 0 if it is dense.
        experts_per_token: how many of them a token is sent to.
        caches: what the layers keep of a sequence, by kind.
    """

    name: str
    source: str
    unverified: bool
    total: int
    active: int
    embedding: int
    head: int
    expert: int
    replicated: int
    largest_layer: int
    matrices: int
    vocabulary: int
    layers: int
    hidden: int
    query: int
    key_value: int
    heads_key_value: int
    width: int
    experts: int
    experts_per_token: int
    caches: tuple[Cache, ...]

    @property
    def body(self) -> int:
        """Parameters outside embedding and output layer."""
        return self.total - self.embedding - self.head

    def adapters(self, rank: int, targets: Targets, excluded: Targets | None = None) -> int:
        """Parameters of LoRA, as peft would add them: rank x (inputs + outputs) for each adapted matrix.

        Args:
            rank: 0 without LoRA.
            targets: ``all-linear``, a pattern for whole names, or the last parts of names.
            excluded: as `targets`, of what is left alone.
        """
        return rank * _adapters_of_rank_one(self.name, targets, excluded) if rank else 0


@cache
def _adapters_of_rank_one(name: str, targets: Targets, excluded: Targets | None) -> int:
    from peft import LoraConfig, get_peft_model

    module = build(name, parse(name, read(name)[0]))

    def chosen(names: Targets | None) -> str | list[str] | None:
        return list(names) if isinstance(names, tuple) else names

    wanted = LoraConfig(
        task_type="CAUSAL_LM", r=1, target_modules=chosen(targets), exclude_modules=chosen(excluded)
    )  # fmt: skip
    with warnings.catch_warnings():
        # peft's own patterns for experts match nothing in some models.
        warnings.simplefilter("ignore")
        adapted = get_peft_model(module, wanted, low_cpu_mem_usage=True)
    return sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
