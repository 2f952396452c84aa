"""The reference pass of `verl-ext doctor entropies`: transformers computes what the engine should have said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from verl_ext.entropy_check.compare import Response, Values
from verl_ext.quiet import quiet_transformers

if TYPE_CHECKING:
    import torch

# A model below this many parameters is computed in float64: 8 bytes each, and seconds for a token on a CPU.
SMALL = 1e9
# Rows of the vocabulary's size worked on at a time.
ROWS = 256


@dataclass(frozen=True)
class Reference:
    """The model, and in which precision it computes."""

    model: Any
    parameters: int
    precision: str

    def values(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Response], temperature: float
    ) -> Iterator[Values]:
        """Log-prob and entropy of every token of `responses`, one forward pass for each.

        Args:
            prompts: token ids, indexed by ``Response.prompt``.
            responses: what the engine generated.
            temperature: divides the logits.
        """
        for response in responses:
            logits = self._logits(prompts[response.prompt], response.tokens)
            yield token_values(logits, response.tokens, temperature)

    def _logits(self, prompt: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """[T, V]: row t is what token t was sampled from."""
        import torch

        ids = torch.tensor([[*prompt, *tokens]], device=self.model.device)
        with torch.no_grad():
            return self.model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1]


def load(name: str, dtype: str) -> Reference:
    """The model with its weights in the engine's dtype, so that only arithmetic differs, not the weights.

    Args:
        name: of the model, or its folder.
        dtype: the engine's: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with quiet_transformers():
        # The fused experts of transformers have no kernel for float64.
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=getattr(torch, dtype), experts_implementation="eager"
        ).eval()
    parameters = model.num_parameters()
    if parameters < SMALL:
        return Reference(model.double(), parameters, "float64 on the CPU")
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = str(accelerator or "cpu")
    precision = f"{dtype}, log-softmax in float32, on {'the CPU' if device == 'cpu' else device}"
    return Reference(model.to(device), parameters, precision)


def token_values(logits: torch.Tensor, tokens: Sequence[int], temperature: float) -> Values:
    """log p and H of softmax(logits / temperature), in float32 or, where the logits have it, in float64.

    Args:
        logits: [T, V].
        tokens: [T], the sampled ones.
        temperature: above 0.

    Example:
        >>> import torch
        >>> found = token_values(torch.tensor([[0.0, 0.0], [1.0, -torch.inf]]).double(), [1, 0], 0.5)
        >>> [round(x, 4) for x in found.log_probs], [round(x, 4) for x in found.entropies]
        ([-0.6931, 0.0], [0.6931, 0.0])
    """
    import torch

    log_probs: list[float] = []
    entropies: list[float] = []
    for rows, ids in zip(logits.split(ROWS), torch.tensor(tokens).split(ROWS), strict=True):
        rows = torch.log_softmax((rows if rows.dtype == torch.float64 else rows.float()) / temperature, dim=-1)
        log_probs += rows.gather(1, ids.to(rows.device)[:, None])[:, 0].tolist()
        entropies += torch.special.entr(rows.exp()).sum(-1).tolist()
    return Values(log_probs, entropies)
