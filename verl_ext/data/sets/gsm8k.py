"""GSM8K: the answer of a worked solution stands behind its last ``####``."""

from verl_ext.data.dataset import Dataset
from verl_ext.data.sources import Hub

SET = Dataset(
    "gsm8k",
    "GSM8K, grade-school word problems with whole numbers for answers",
    "both",
    "boxed",
    Hub("openai/gsm8k", "cc7b047b6e5bb11b4f1af84efc572db110a51b3c", ("main/train-*.parquet", "main/test-*.parquet")),
    rows=1319,
    train_rows=7473,
    note="verl's own preprocessed train.parquet and test.parquet are read as well.",
)
