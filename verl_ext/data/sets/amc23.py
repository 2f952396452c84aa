"""AMC 12, 2023, the 40 problems with a numerical answer."""

from verl_ext.data.dataset import STEER, Dataset, Known
from verl_ext.data.sources import Hub

SET = Dataset(
    "amc23",
    "AMC 12, 2023, the 40 problems with a numerical answer",
    "benchmark",
    "boxed",
    Hub("zwhe99/amc23", None, ("*test*.parquet", "*test*.jsonl")),
    problems=40,
    numeric=True,
    known=(Known(f"{STEER}, amc23.parquet", "4eb91a7eda4fc6dfe38e0042512d6b38ddeef3afee2f7cce2d8c8a4c38b5809d"),),
    note="The half of amc83 that is of 2023.",
)
