"""The demo's arithmetic, made here."""

from collections.abc import Iterator

from verl_ext.data.dataset import Dataset
from verl_ext.data.sources import Row

TRAIN, VALIDATION = 4096, 512
"""Numbers of problems, as the demo has them."""


def make(split: str) -> Iterator[Row]:
    from verl_ext.toy import task

    train = split == "train"
    for problem in task.problems("train" if train else "validation", TRAIN if train else VALIDATION, seed=0):
        yield {"problem": problem.prompt, "answer": problem.answer}


SET = Dataset(
    "demo_arithmetic",
    f"the demo's arithmetic: {VALIDATION} problems to evaluate on, and {TRAIN:,} to train on in a file",
    "both",
    "demo",
    made=make,
    problems=VALIDATION,
    train_rows=TRAIN,
    note="Made here, from verl_ext.toy.task; the demo's models read no template but demo and plain.",
)
