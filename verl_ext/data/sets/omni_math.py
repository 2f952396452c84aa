"""Omni-MATH."""

from verl_ext.data.dataset import Dataset
from verl_ext.data.sources import Hub

SET = Dataset(
    "omni_math",
    "Omni-MATH",
    "benchmark",
    "boxed",
    Hub("KbsdJames/Omni-MATH", "40ba231d8f16e29ecd40e6407e2c8640145a8f62", ("data/test-*.parquet",)),
    rows=4428,
    text_answers=True,
    note="Its answers are judged by a language model in its own paper; many are sentences that no rule can verify.",
)
