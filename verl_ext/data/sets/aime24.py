"""AIME 2024, I and II."""

from verl_ext.data.dataset import STEER, Dataset, Known
from verl_ext.data.sources import Hub

SET = Dataset(
    "aime24",
    "AIME 2024, I and II",
    "benchmark",
    "boxed",
    Hub("HuggingFaceH4/aime_2024", "2fe88a2f1091d5048c0f36abc874fb997b3dd99a", ("data/train-*.parquet",)),
    problems=30,
    known=(Known(f"{STEER}, aime24.parquet", "36d023538e1225d1ea6cb6d4fefc30236590bc0069c59b2d92bee85e80f112a6"),),
)
