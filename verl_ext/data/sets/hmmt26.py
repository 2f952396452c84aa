"""HMMT February 2026."""

from verl_ext.data.dataset import Dataset
from verl_ext.data.sources import Hub

SET = Dataset(
    "hmmt26",
    "HMMT February 2026",
    "benchmark",
    "boxed",
    Hub("MathArena/hmmt_feb_2026", None, ("data/train-*.parquet",)),
    problems=33,
)
