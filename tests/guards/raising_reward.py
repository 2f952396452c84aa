"""A reward function with a slip in it, such as everybody has written once."""

from __future__ import annotations

import os
import time
from pathlib import Path


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    first = Path(os.environ["VERL_EXT_RECORD"]) / "raised"
    if not first.exists():
        first.write_text(str(time.time()))
    return float(extra_info["answer_of_another_dataset"] == solution_str)
