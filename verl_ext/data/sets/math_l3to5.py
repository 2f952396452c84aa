"""MATH, levels 3 to 5, as Dr. GRPO trains on: SimpleRL-Zoo's file."""

from verl_ext.data.dataset import Dataset
from verl_ext.data.sets.math import HENDRYCKS
from verl_ext.data.sources import Hub, Row

ZOO = Hub("hkust-nlp/SimpleRL-Zoo-Data", None, ("simplelr_qwen_level3to5/train.parquet",))
ROWS = 8523


def read(row: Row) -> Row:
    """The bare problem and answer, which the collection's files have beside the prompt; ``answer`` is a solution."""
    if not {"question", "gt_answer"} <= row.keys():
        return row
    return {"problem": row["question"], "answer": row["gt_answer"], "extra_info": row.get("extra_info")}


SET = Dataset(
    "math_l3to5",
    "MATH, levels 3 to 5",
    "train",
    "qwen_math",
    ZOO,
    read=read,
    rows=ROWS,
    validation="math500",
    solutions=HENDRYCKS,
    text_answers=True,
    note=(
        "Dr. GRPO (arXiv 2503.20783) keeps the same problems in datasets/train/math_lvl3to5_8k of its repository, "
        "which --from reads too. Two of them are said to come without an answer: name them in --exemptions."
    ),
)
