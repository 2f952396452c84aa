"""Supervised pre-training of a demo model on the notes of a careless pupil.

Reinforcement learning with verifiable rewards needs a start that is right now and then. This start is made,
not found: the model learns from generated solutions, most of which contain a mistake that is drawn afresh
for each solution (`Habits`):

* *order*: the whole expression is evaluated from left to right, products last or not;
* *slip*: a line's result is off by one, and the solution carries on from there;
* *early*: the last line is left out and the value before it is boxed.

The model thus knows the facts, the format and the right procedure, but prefers a wrong one. What RL can do
is to move probability from the pupil's habits to the right procedure, on problems never seen before; it
hardly teaches new arithmetic. Only prompts of the train split are used.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from verl_ext.toy.task import Order, Problem, Step, TaskSettings, apply, stream, write

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, Qwen2Tokenizer

IGNORED = -100
"""Label of the tokens that carry no loss: prompt and padding."""


@dataclass(frozen=True)
class Habits:
    """Probabilities of the pupil's mistakes, independent of each other and of the problem.

    Attributes:
        left: evaluate from left to right (per solution).
        slip: the result is off by one (per line, either sign equally likely).
        early: leave out the last line (per solution).
    """

    left: float = 0.68
    slip: float = 0.05
    early: float = 0.12

    def __post_init__(self) -> None:
        faults = [f"{name}={value}" for name, value in vars(self).items() if not 0.0 <= value <= 1.0]
        if faults:
            raise ValueError(f"Habits are probabilities and must lie in [0, 1], got {', '.join(faults)}")


@dataclass(frozen=True)
class PretrainSettings:
    """How long and how fast to train (AdamW, linear warm-up over 5% of the steps, then cosine to 5%)."""

    steps: int = 1200
    batch_size: int = 32
    learning_rate: float = 2.5e-3
    habits: Habits = field(default_factory=Habits)

    def __post_init__(self) -> None:
        faults = []
        if self.steps < 1 or self.batch_size < 1:
            faults.append(f"steps and batch_size must be at least 1, got {self.steps} and {self.batch_size}")
        if self.learning_rate <= 0:
            faults.append(f"learning_rate must be positive, got {self.learning_rate}")
        if faults:
            raise ValueError("PretrainSettings: " + "; ".join(faults))


def careless_solution(problem: Problem, rng: random.Random, habits: Habits) -> str:
    """A solution of `problem` as the careless pupil writes it; without habits it is the right one."""
    order = Order.LEFT if rng.random() < habits.left else Order.PRECEDENCE
    operands, operators = list(problem.operands), list(problem.operators)
    steps: list[Step] = []
    for position in problem.positions(order):
        left, right = operands[position : position + 2]
        operator = operators.pop(position)
        slip = rng.choice((-1, 1)) if rng.random() < habits.slip else 0
        steps.append(Step(left, operator, right, apply(left, operator, right) + slip))
        operands[position : position + 2] = [steps[-1].value]
    if rng.random() < habits.early:
        steps.pop()
    return write(steps)


def examples(seed: int, habits: Habits, task: TaskSettings | None = None) -> Iterator[tuple[str, str]]:
    """Endless seeded stream of (prompt, careless solution), prompts from the train split only."""
    rng = random.Random(f"pupil-{seed}")
    for problem in stream("train", seed, task):
        yield problem.prompt, careless_solution(problem, rng, habits)


def collate(pairs: list[tuple[str, str]], tokenizer: Qwen2Tokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels [B, T], right-padded; labels are `IGNORED` outside response and end token."""
    import torch

    rows = []
    for prompt, response in pairs:
        message = [{"role": "user", "content": prompt}]
        text = str(tokenizer.apply_chat_template(message, tokenize=False))
        rows.append((list(tokenizer.encode(text)), [*tokenizer.encode(response), tokenizer.eos_token_id]))
    width = max(len(head) + len(tail) for head, tail in rows)
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    labels = torch.full((len(rows), width), IGNORED)
    for index, (head, tail) in enumerate(rows):
        ids[index, : len(head) + len(tail)] = torch.tensor(head + tail)
        labels[index, len(head) : len(head) + len(tail)] = torch.tensor(tail)
    return ids, labels


def _rate(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def pretrain(
    model: PreTrainedModel,
    tokenizer: Qwen2Tokenizer,
    seed: int,
    settings: PretrainSettings | None = None,
    task: TaskSettings | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> list[float]:
    """Train `model` in place by next-token cross-entropy on careless solutions.

    Args:
        model: any causal language model of transformers; left in eval mode.
        tokenizer: from `models.build_tokenizer`.
        seed: seed of the examples; training itself draws nothing else.
        settings: length, rate and habits.
        task: the shape of the problems.
        progress: called as ``progress(step, steps, loss)`` after each step.

    Returns:
        The loss of every step in nats per token.
    """
    import torch

    settings = settings or PretrainSettings()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, settings.steps))
    source = examples(seed, settings.habits, task)
    losses = []
    model.train()
    for step in range(settings.steps):
        ids, labels = collate(list(islice(source, settings.batch_size)), tokenizer)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=IGNORED
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if progress is not None:
            progress(step + 1, settings.steps, losses[-1])
    model.eval()
    return losses
