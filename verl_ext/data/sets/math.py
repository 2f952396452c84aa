"""MATH, all levels: the answer of a worked solution stands in its last box."""

from verl_ext.data.dataset import Dataset
from verl_ext.data.sources import Hub

HENDRYCKS = Hub(
    "EleutherAI/hendrycks_math", "21a5633873b6a120296cce3e2df9d5550074f4a3", ("*/train-*.parquet", "*/test-*.parquet")
)

SET = Dataset(
    "math",
    "MATH, all levels and subjects, in its own split of 7,500 and 5,000",
    "both",
    "boxed",
    HENDRYCKS,
    rows=5000,
    train_rows=7500,
    text_answers=True,
    note=(
        "MATH-500 (math500) is a part of the 5,000; papers that train on 12,000 take everything but MATH-500. Some "
        "answers are words."
    ),
)
