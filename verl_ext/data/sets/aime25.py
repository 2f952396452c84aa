"""AIME 2025, I and II."""

from verl_ext.data.dataset import STEER, Dataset, Known
from verl_ext.data.sources import Hub

SET = Dataset(
    "aime25",
    "AIME 2025, I and II",
    "benchmark",
    "boxed",
    Hub("opencompass/AIME2025", "a6ad95f611d72cf628a80b58bd0432ef6638f958", ("aime2025-*.jsonl",)),
    problems=30,
    known=(Known(f"{STEER}, aime25.parquet", "159306ee3175c0b9aa228b33842cd02510b2dbef15b2453f903a1d48ada33fe6"),),
)
