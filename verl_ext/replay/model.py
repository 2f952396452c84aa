"""A model's log-probs, entropies and gradients for the rows of a dump.

The loss depends on the parameters through the log-probs l alone (entropies carry no gradient in a policy loss), so its
gradient is the sum over tokens of dloss/dl_t times the gradient of l_t: two passes, row by row, whatever the loss.

Shapes: T tokens, V vocabulary, L losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from verl_ext.quiet import quiet_transformers
from verl_ext.replay.dump import Dump
from verl_ext.replay.faults import ReplayError


@dataclass(frozen=True)
class Policy:
    """A causal language model in float32.

    Attributes:
        module: of transformers, in evaluation mode.
        tokenizer: its tokenizer.
        temperature: divides the logits.
    """

    module: Any
    tokenizer: Any
    temperature: float = 1.0

    @property
    def vocab_size(self) -> int:
        """V of the output distribution."""
        return int(self.module.get_output_embeddings().weight.shape[0])

    def values(self, dump: Dump) -> Dump:
        """The dump with `log_prob` and `entropy` [B, T] of this model."""
        shape = dump.mask.shape
        log_prob, entropy = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
        with torch.no_grad():
            for row in range(shape[0]):
                chosen, entropies = self._row(dump, row)
                log_prob[row, : len(chosen)], entropy[row, : len(chosen)] = chosen.cpu(), entropies.cpu()
        return dump.with_tensors(
            log_prob=log_prob.masked_fill(~dump.mask, 0.0), entropy=entropy.masked_fill(~dump.mask, 0.0)
        )

    def gradients(self, dump: Dump, weights: Sequence[Tensor]) -> list[list[Tensor]]:
        """For each loss its gradient with respect to every parameter.

        Args:
            dump: the rows.
            weights: of each loss, dloss/dl [B, T].
        """
        parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        totals = [[torch.zeros_like(parameter) for parameter in parameters] for _ in weights]
        for row in range(dump.mask.shape[0]):
            chosen, _ = self._row(dump, row)
            for total, weight in zip(totals, weights, strict=True):
                given = weight[row, : len(chosen)].to(chosen)
                found = torch.autograd.grad(chosen, parameters, given, retain_graph=True, allow_unused=True)
                for sum_, part in zip(total, found, strict=True):
                    if part is not None:  # an expert that no token of this row went to
                        sum_ += part
        return totals

    def _row(self, dump: Dump, row: int) -> tuple[Tensor, Tensor]:
        """Log-prob and entropy of each token of a response up to its last valid one, [T] each."""
        assert dump.prompts is not None
        length = int(dump.mask[row].nonzero()[-1]) + 1
        prompt = torch.as_tensor(dump.prompts[row], dtype=torch.long)
        response = dump.tensors["responses"][row, :length]
        ids = torch.cat([prompt, response]).to(self.module.device)
        logits = self.module(ids[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
        log_probs = torch.log_softmax(logits.float() / self.temperature, dim=-1)
        chosen = log_probs.gather(1, ids[len(prompt) :, None])[:, 0]
        return chosen, torch.special.entr(log_probs.detach().exp()).sum(-1)


def load(folder: Path, temperature: float, device: str | None = None) -> Policy:
    """Load a model and its tokenizer with transformers.

    Args:
        folder: of the model, as transformers takes it.
        temperature: at which the responses were sampled.
        device: of torch; an accelerator if there is one.

    Raises:
        ReplayError: it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    try:
        with quiet_transformers():
            module = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    except (OSError, ValueError) as error:
        raise ReplayError([f"--model {folder} cannot be loaded: {error}"]) from error
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return Policy(module.to(device or accelerator or "cpu"), load_tokenizer(folder), temperature)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder.

    Raises:
        ReplayError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        raise ReplayError([f"no tokenizer can be loaded from {folder}: {error}"]) from error


def faults(dump: Dump, policy: Policy) -> list[str]:
    """Why this model cannot compute these rows."""
    missing = [name for name in ("responses",) if name not in dump.tensors]
    missing += ["prompts"] if dump.prompts is None else []
    if missing or dump.prompts is None:
        return [f"--model needs the column {name}, which the file does not have" for name in missing]
    empty = [key for key, prompt in zip(dump.keys, dump.prompts, strict=True) if not len(prompt)]
    greatest = max(int(dump.tensors["responses"].max()), *(int(max(prompt, default=0)) for prompt in dump.prompts))
    found = [f"--model: {len(empty)} rows have no prompt, first {empty[0]}"] if empty else []
    if greatest >= policy.vocab_size:
        found.append(f"--model: the file has the token id {greatest}, the model {policy.vocab_size} tokens")
    return found
