"""GPQA-diamond: four choices; the answer is a letter."""

import hashlib

from verl_ext.data.dataset import Dataset
from verl_ext.data.sources import Hub, Row
from verl_ext.data.text import canonical

RIGHT, WRONG = "Correct Answer", ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
ASKED = "Which of these is correct? Answer with its letter."


def read(row: Row) -> Row:
    """Question and choices as a problem, the right one's letter as its answer.

    The choices stand in the order of the SHA-256 of "question NUL choice", white space and Unicode composition
    normalised: the same on every machine and in any order of the rows, and no letter is preferred.
    """
    if not {"Question", RIGHT, *WRONG} <= row.keys():
        return row
    question, right, *wrong = (str(row[name]).strip() for name in ("Question", RIGHT, *WRONG))

    def place(choice: str) -> str:
        return hashlib.sha256(f"{canonical(question)}\0{canonical(choice)}".encode()).hexdigest()

    choices = sorted((right, *wrong), key=place)
    listed = "\n".join(f"({letter}) {choice}" for letter, choice in zip("ABCD", choices, strict=True))
    answer = "ABCD"[choices.index(right)]
    return {"problem": f"{question}\n\n{ASKED}\n\n{listed}", "answer": answer, "id": row.get("Record ID")}


SET = Dataset(
    "gpqa_diamond",
    "GPQA-diamond, graduate-level questions with four choices",
    "benchmark",
    "boxed",
    Hub("Idavidrein/gpqa", None, ("gpqa_diamond.csv",)),
    read=read,
    rows=198,
    text_answers=True,
    note="Gated: accept its conditions on the hub and log in there, or give gpqa_diamond.csv with --from.",
)
