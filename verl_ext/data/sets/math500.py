"""MATH-500."""

from verl_ext.data.dataset import STEER, Dataset, Known
from verl_ext.data.sources import Hub

SET = Dataset(
    "math500",
    "MATH-500",
    "benchmark",
    "boxed",
    Hub("HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", ("test.jsonl",)),
    problems=500,
    known=(Known(f"{STEER}, math500.parquet", "f512fb14159dac481800915277fa1746e8b5342fdf7b8204a55d675022c7c5de"),),
)
