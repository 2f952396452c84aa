"""Minerva's problems from MIT courses."""

from verl_ext.data.dataset import STEER, Dataset, Known
from verl_ext.data.sources import Hub

SET = Dataset(
    "minerva",
    "Minerva's problems from MIT courses",
    "benchmark",
    "boxed",
    Hub("zwhe99/simplerl-minerva-math", None, ("*test*.parquet", "*test*.jsonl")),
    problems=272,
    known=(
        Known(f"{STEER}, minerva_math.parquet", "7d4396ae3d641075d6ed4cb8b821a23a75bb148abe3dc2a4a7adceafd9b5790f"),
    ),
)
