"""Made exports: rewards, words and entropies are drawn, everything else comes out of the real losses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from verl_ext import batch_file
from verl_ext.losses.espo import espo_loss, make_group_ids
from verl_ext.losses.sspo import sspo_loss
from verl_ext.losses.trace import traced
from verl_ext.segments import segment_ids

PIECES = re.compile(r"\n+| ?[A-Za-z]{1,10}|[A-Za-z]+| ?\d|[^\w\n]")
# Words at which a model has a choice: what follows them is drawn with a high entropy.
FORKS = {"Let", "So", "We", "First", "Now", "Since", "Then", "Wait", "Check", "The", "Here", "Thus", "Next"}
PROBLEMS = (
    (
        "A train leaves at noon and travels {a} km at {b} km/h. How many minutes does the trip take?",
        lambda a, b: 60 * a / b,
    ),
    ("A box holds {a} rows of {b} apples. A third of them is sold. How many are left?", lambda a, b: 2 * a * b / 3),
    ("Find the sum of all integers from {a} to {b}.", lambda a, b: (a + b) * (b - a + 1) / 2),
    (
        "How many triangles can be drawn with corners among {a} points, no three of them on a line, if {b} are red?",
        lambda a, b: a,
    ),
    ("Let f(x) = {a}x + {b}. For which x is f(f(x)) = 0?", lambda a, b: -b * (a + 1) / a**2),
    ("A number leaves remainder {a} when divided by {b}. What does its square leave?", lambda a, b: a * a % b),
    (
        "What is the area of a rectangle with perimeter {b} whose sides differ by {a}?",
        lambda a, b: ((b / 2) ** 2 - a**2) / 4,
    ),
)
OPENINGS = (
    "Let us write down what is given: the first number is {a} and the second one is {b}.",
    "We start from {a} and {b}, and look for a relation between the two.",
    "First, note that {a} and {b} are both known, so one equation is enough.",
)
MIDDLES = (
    "Since the quantity grows with {a}, we multiply before we divide. The product is {p}, which is larger than {b}.",
    "Now put the numbers in: {a} times {b} is {p}. Dividing by the common factor keeps the result an exact fraction.",
    "Wait, the condition also has to hold at the other end. Checking {b} - {a} = {d} shows that nothing is lost there.",
    "Here it helps to rewrite the expression as a sum, because each of its parts is easy: {a} + {b} = {s}.",
    "Then the second case follows from the first by symmetry, so it does not have to be computed again.",
    "So the remaining term is {d}, and it enters only once. We keep it as it is and simplify the rest of the line.",
)
ENDINGS = (
    "Thus the answer is \\boxed{{{r}}}.",
    "So, putting everything together, we obtain \\boxed{{{r}}}.",
    "Check: the units agree and the size is plausible. The answer is \\boxed{{{r}}}.",
)


def pieces(text: str) -> list[str]:
    """Text cut the way tokenizers cut it: words with the space before them, long words in two, digits one by one."""
    found = PIECES.findall(text)
    assert "".join(found) == text
    return found


def solution(rng: np.random.Generator, problem: int, right: bool) -> tuple[str, str]:
    """A prompt and a response to it."""
    a, b = 6 + 3 * problem, 40 + 10 * problem
    result = PROBLEMS[problem % len(PROBLEMS)][1](a, b)
    told = f"{result if right else result + rng.integers(1, 9):g}"
    words = {"a": a, "b": b, "p": a * b, "d": b - a, "s": a + b, "r": told}
    middles = rng.permutation(MIDDLES)[: rng.integers(3, 7)]
    parts = [rng.choice(OPENINGS), *middles, rng.choice(ENDINGS)]
    return PROBLEMS[problem % len(PROBLEMS)][0].format(**words), "\n\n".join(part.format(**words) for part in parts)


def entropies(rng: np.random.Generator, tokens: list[str]) -> np.ndarray:
    """Mostly near 0, high where a sentence forks, nats."""
    found = rng.exponential(0.06, len(tokens))
    for i, token in enumerate(tokens):
        word = token.strip()
        if word in FORKS or (i and tokens[i - 1].strip() in FORKS):
            found[i] += rng.gamma(4.0, 0.35)
        elif token[0] == " " and rng.random() < 0.12:
            found[i] += rng.gamma(2.0, 0.5)
    return found.astype(np.float32)


def batch(seed: int = 0, method: str = "sspo", prompts: int = 7, responses: int = 8) -> dict[str, Any]:
    """The columns of an export of one step."""
    rng = np.random.default_rng(seed)
    rewards = (rng.random((prompts, responses)) < rng.uniform(0.1, 0.95, (prompts, 1))).astype(np.float32)
    solved = [[solution(rng, problem, bool(reward)) for reward in row] for problem, row in enumerate(rewards)]
    tokens = [pieces(response) for row in solved for _, response in row]
    advantages = (rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, keepdims=True, ddof=1) + 1e-6)
    count = prompts * responses
    return columns_of(
        rng,
        method,
        tokens,
        advantages.flatten(),
        key=[f"prompt{row // responses}_{row % responses}_0" for row in range(count)],
        uid=[f"prompt{row // responses}" for row in range(count)],
        prompt_text=[f"{prompt}\n\nAnswer in a box.\n" for row in solved for prompt, _ in row],
        score=rewards.flatten().tolist(),
        mini_batch=[row // responses % 2 for row in range(count)],
        rank=[0] * count,
        data_source=["made/problems"] * count,
        reward_extra_info=[json.dumps({"acc": bool(reward)}) for reward in rewards.flatten()],
    )


def long_batch(responses: int, tokens: int, seed: int = 0, group: int = 5) -> dict[str, Any]:
    """Rows of one length, with words and paragraphs."""
    rng = np.random.default_rng(seed)
    words = np.array([" " + "".join(rng.choice(list("aeioulnrst"), rng.integers(1, 9))) for _ in range(3000)])
    rows = []
    for _ in range(responses):
        row = words[rng.integers(0, len(words), tokens)]
        row[rng.random(tokens) < 0.01] = ".\n\n"
        rows.append(row.tolist())
    scores = rng.integers(0, 2, responses).astype(np.float32)
    return columns_of(
        rng,
        "sspo",
        rows,
        scores - 0.5,
        key=[f"long{row}_0_0" for row in range(responses)],
        uid=[f"long{row // group}" for row in range(responses)],
        prompt_text=[f"Prompt {row // group}: write a long answer." for row in range(responses)],
        score=scores.tolist(),
    )


def columns_of(
    rng: np.random.Generator, method: str, tokens: list[list[str]], advantages: np.ndarray, **more: Any
) -> dict[str, Any]:
    """Columns of tokens from texts and advantages: log-probs are drawn, the rest is the loss's own."""
    lengths = [len(row) for row in tokens]
    vocabulary = sorted({text for row in tokens for text in row})
    number = {text: i for i, text in enumerate(vocabulary)}
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    ids = _padded([[number[text] for text in row] for row in tokens], torch.int64)
    entropy = _padded([entropies(rng, row) for row in tokens], torch.float32)
    old = -entropy * torch.from_numpy(rng.gamma(2.0, 0.5, tuple(mask.shape))).float()
    drift = torch.from_numpy(rng.normal(0.0, 1.0, tuple(mask.shape))).float() * 0.35 * entropy.sqrt()
    # Stretches that the update moved as a whole: only those leave the bounds of a segment.
    moved = np.repeat(rng.normal(0.0, 0.2, (len(tokens), mask.shape[1] // 25 + 1)), 25, axis=1)[:, : mask.shape[1]]
    drift = drift + torch.from_numpy(moved).float()
    new = (old + drift).clamp(max=0.0).requires_grad_()
    given = torch.from_numpy(np.asarray(advantages)).float()[:, None].expand(mask.shape)
    segments = segment_ids(ids, mask, vocabulary, "\n\n")
    with traced() as seen:
        if method == "sspo":
            loss, _ = sspo_loss(old, new, given, mask, segment_ids=segments, old_entropy=entropy)
        else:
            loss, _ = espo_loss(old, new, given, mask, old_entropy=entropy, vocab_size=151_936, alpha=1.0)
    loss.backward()
    assert new.grad is not None
    clipped = seen.pop("clipped")
    found = {
        "responses": ids,
        "response_mask": mask.to(torch.int8),
        "advantages": given,
        "entropy": entropy,
        "old_log_probs": old,
        "log_probs": new.detach(),
        "current_entropy": entropy * 0.97,
        **seen,
        "clipped_low": (clipped & (given < 0)).to(torch.int8),
        "clipped_high": (clipped & (given > 0)).to(torch.int8),
        "loss_weight": -new.grad,
    }
    found |= (
        {"segment_ids": segments}
        if method == "sspo"
        else {"group_ids": make_group_ids(entropy, mask, "quantile", [0.8], [])}
    )
    rows = {
        name: [row[:length].numpy() for row, length in zip(values.expand(mask.shape), lengths, strict=True)]
        for name, values in found.items()
    }
    return {**more, "tokens": tokens, **rows}


def _padded(rows: list[Any], dtype: torch.dtype) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(
        [torch.as_tensor(np.asarray(row), dtype=dtype) for row in rows], batch_first=True
    )


def write(folder: Path, step: int, columns: dict[str, Any], **about: Any) -> Path:
    """One step of an export, as a run leaves it; the folder of the export."""
    place = folder / "token_export" / f"step-{step:05d}"
    place.mkdir(parents=True, exist_ok=True)
    batch_file.write(place / "part-00000.parquet", columns, step, about)
    return place.parent


ABOUT = {
    "run": "SSPO, made example",
    "loss": "sspo",
    "hyper_parameters": {"alpha": 0.0, "beta": 0.8, "gamma": 1.75, "entropy_clip": True},
    "loss_agg_mode": "seq-mean-token-mean",
    "vocab_size": 151_936,
}
