"""OlympiadBench, English text-only problems of mathematics."""

from verl_ext.data.dataset import STEER, Dataset, Known
from verl_ext.data.problems import Exemption
from verl_ext.data.sources import Hub

SET = Dataset(
    "olympiadbench",
    "OlympiadBench, English text-only problems of mathematics",
    "benchmark",
    "boxed",
    Hub("zwhe99/simplerl-OlympiadBench", None, ("*test*.parquet", "*test*.jsonl")),
    problems=675,
    known=(
        Known(f"{STEER}, olympiadbench.parquet", "91c7b90188f1d5665c19b72db7e8ebfd94da59c3d5f68091f591fc17ed323f13"),
    ),
    exemptions=(
        Exemption(
            "14d5d2263d2d",
            "keep",
            "the answer is written t(0,4], for t in (0,4]; no rule reads it, and only the same text is accepted",
        ),
    ),
)
