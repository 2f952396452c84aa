"""ERPO: an outcome-signed progress signal, gated by entropy, added to GRPO's advantage token by token.

ERPO: Token-Level Entropy-Regulated Policy Optimization for Large Reasoning Models, arXiv 2603.28204, section 3
and algorithm 1. What the paper leaves open is in docs/methods/erpo.md.

Shapes: B rows, b rows of a block, T tokens, K buckets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from verl_ext.advantages.blocks import Block, blocks
from verl_ext.advantages.common import read_rows
from verl_ext.hyper import check_call, integer, number


@dataclass(frozen=True)
class ProcessSignal:
    """What ERPO adds to the outcome, and what it is made of; 0 outside the mask, in the dtype of the rewards.

    Attributes:
        outcome: [B] A_i, GRPO's advantage of the row.
        gate: [B, T] W in (0, 1), equation 8.
        progress: [B, T] s~, the z-score of the log-ratio to the reference within its bucket, equation 9.
        psi: [B, T] Psi, equation 10; sign(Psi) = sign(A_i) sign(s~).
    """

    outcome: Tensor
    gate: Tensor
    progress: Tensor
    psi: Tensor


def erpo_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Iterable[object],
    *,
    old_entropy: Tensor,
    old_log_prob: Tensor,
    ref_log_prob: Tensor,
    beta_progress: Annotated[float, number(least=0)] = 1.0,
    gamma: Annotated[float, number(least=0)] = 1.0,
    num_buckets: Annotated[int, integer(least=1)] = 10,
    eta: Annotated[float, number(least=0)] = 0.1,
    sigma_target: Annotated[float, number(least=0)] = 1.0,
    delta: Annotated[float, number(above=0)] = 1e-6,
) -> tuple[Tensor, Tensor]:
    """GRPO's advantage plus ERPO's process signal, normalised over the tokens of each prompt.

        s = beta_progress (log pi_old(y_t) - log pi_ref(y_t))              equation 7
        W = sigmoid(gamma (H - mean_p H) / (std_p H + delta))              equation 8
        s~ = (s - mean_pk s) / (std_pk s + delta)                          equation 9
        psi = W sign(A_i) s~
        Psi = sigma_target psi / (std_p(psi where sign(A_i) != 0) + delta)
        A_t = z-score over the tokens of p of A_i + eta Psi                equation 10

    p is the prompt and k the bucket of relative position, k = floor(K t / n_i) with t counted from 0 among the n_i
    valid tokens of the row; z-scores are (x - mean) / (std + delta), token-level std the population one. A_i is
    GRPO's (R_i - mean) / (std + 1e-6), with the unbiased std. A prompt whose A_i are all 0 gets exactly 0.

    arXiv 2603.28204, sections 3.1 to 3.4 and algorithm 1.

    Args:
        token_level_rewards: [B, T], summed over the row without the mask, as verl's GRPO does.
        response_mask: [B, T] bool or 0/1; a row of zeros enters no statistic.
        index: B hashable prompt ids.
        old_entropy: [B, T] H, nats, of the old policy.
        old_log_prob, ref_log_prob: [B, T] log-probabilities of the tokens under the old and the reference policy.
        beta_progress: scale of s; cancels in s~ but for delta.
        gamma: steepness of the gate; 0 makes it 1/2 everywhere.
        num_buckets: K, at least 1.
        eta, sigma_target: only their product matters; 0 leaves the z-score of A_i over the tokens.
        delta: added to each token-level std, above 0.

    Returns:
        advantages and returns, the same tensor [B, T], 0 outside the mask, without gradient.

    Raises:
        ValueError: shapes differ, the number of prompt ids is not B, an option is out of its range, or entropies are
            far below 0.

    Example:
        >>> import torch
        >>> rewards, old = torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.tensor([[-1.0, -2.0], [-1.0, -3.0]])
        >>> advantages, _ = erpo_advantage(
        ...     rewards, torch.ones(2, 2), ["a", "a"], num_buckets=1,
        ...     old_entropy=torch.ones(2, 2), old_log_prob=old, ref_log_prob=torch.full((2, 2), -2.0))
        >>> [[round(x, 2) for x in row] for row in advantages.tolist()]
        [[1.08, 0.9], [-1.17, -0.81]]
    """
    check_call(erpo_advantage, locals())
    signal = _Signal(beta_progress, gamma, num_buckets, sigma_target, delta)
    data = {"old_entropy": old_entropy, "old_log_prob": old_log_prob, "ref_log_prob": ref_log_prob}
    rows = read_rows("erpo", token_level_rewards, response_mask, index, **data)
    advantages = torch.zeros_like(rows.mask, dtype=rows.rewards.dtype)
    for block in blocks(rows, rows.outcome_advantages()):
        *_, psi = signal.of(block, **data)
        combined = block.clear_(psi.mul_(eta).add_(block.outcome))
        block.write(block.by_prompt().z_score_(combined, delta), advantages)
    return advantages, advantages


def process_signal(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Iterable[object],
    *,
    data: Mapping[str, Tensor],
    **hyper: float,
) -> ProcessSignal:
    """The parts of `erpo_advantage` before they are added up, to look at.

    Args:
        token_level_rewards, response_mask, index: as there.
        data: `old_entropy`, `old_log_prob` and `ref_log_prob`.
        **hyper: its hyper-parameters, all but eta, which is not in the signal.

    Raises:
        ValueError: as there.
    """
    check_call(erpo_advantage, hyper)
    signal = _Signal(**hyper)  # type: ignore[arg-type]
    rows = read_rows("erpo", token_level_rewards, response_mask, index, **data)
    outcome = rows.outcome_advantages()
    parts = [torch.zeros_like(rows.mask, dtype=rows.rewards.dtype) for _ in range(3)]
    for block in blocks(rows, outcome):
        for part, values in zip(parts, signal.of(block, **data), strict=True):
            block.write(values, part)
    return ProcessSignal(outcome, *parts)


@dataclass(frozen=True)
class _Signal:
    """The hyper-parameters of Psi."""

    beta_progress: float
    gamma: float
    num_buckets: int
    sigma_target: float
    delta: float

    def of(
        self, block: Block, old_entropy: Tensor, old_log_prob: Tensor, ref_log_prob: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gate W, progress s~ and Psi, [b, T] each, of any value outside the mask."""
        gate = block.by_prompt().z_score_(block.read(old_entropy), self.delta).mul_(self.gamma).sigmoid_()
        gain = block.read(old_log_prob).sub_(block.read(ref_log_prob)).mul_(self.beta_progress)
        progress = block.by_bucket(self.num_buckets).z_score_(gain, self.delta)
        psi = block.clear_(gate * progress).mul_(block.outcome.sign())
        active = block.by_activity()
        spread = active.std(active.centre_(psi.clone()))
        return gate, progress, psi.mul_(self.sigma_target / (spread + self.delta))
