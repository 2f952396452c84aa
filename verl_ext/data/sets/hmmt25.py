"""HMMT February 2025."""

from verl_ext.data.dataset import Dataset
from verl_ext.data.sources import Hub

SET = Dataset(
    "hmmt25",
    "HMMT February 2025",
    "benchmark",
    "boxed",
    Hub("MathArena/hmmt_feb_2025", "6fdc4277120810ff75aa22d2d5489b91f7a262a1", ("data/train-*.parquet",)),
    problems=30,
)
