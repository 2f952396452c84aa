"""A batch of two rows worked out by hand, and identities between losses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verl_ext import batch_file
from verl_ext.replay import made, report
from verl_ext.replay.run import Replay, Request, replay

ONE_GROUP = ["grouping=sequence", "clip=fixed", "clip_ratio_low=3e-4", "clip_ratio_high=4e-4"]


@pytest.fixture
def two_rows(tmp_path: Path) -> Path:
    """Ratios 1.5, 1, 0.5 with A = 1, and 0.5, 1.5 with A = -2; what stands behind the mask must not matter."""
    path = tmp_path / "two.parquet"
    ratios = ([1.5, 1.0, 0.5], [0.5, 1.5, 9.0])
    columns = {
        "key": ["a", "b"],
        "response_mask": [[1, 1, 1], [1, 1, 0]],
        "advantages": [[1, 1, 1], [-2, -2, np.nan]],
        "old_log_probs": [[math.log(0.25)] * 3] * 2,
        "log_probs": [[math.log(0.25 * ratio) for ratio in row] for row in ratios],
        "entropy": [[1, 2, 3], [0.5, 4, 99]],
    }
    batch_file.write(path, columns, step=1)
    return path


def test_two_rows_by_hand(two_rows: Path) -> None:
    """GRPO: PPO's range 0.2, the mean of 5 tokens. GSPO: 3e-4 below, 4e-4 above, the mean of rows.

    GRPO's terms min(rA, clip(r)A), and -rA/5 where unclipped:
        A =  1   1.5 -> 1.2 clipped high, 0      1 -> 1, -0.2     0.5 -> 0.5, -0.1
        A = -2   0.5 -> -1.6 clipped low, 0      1.5 -> -3, +0.6
    loss -(1.2 + 1 + 0.5 - 1.6 - 3)/5 = 0.38; norm sqrt(0.04 + 0.01 + 0.36); the top fifth of 5 tokens is the one of
    4 nats: 0.6 of 0.9.
    GSPO: s = (1.5 * 1 * 0.5)^(1/3) = 0.9085603, unclipped with A = 1: -s/6 on 3 tokens. s = 0.75^(1/2) = 0.8660254
    with A = -2 is clipped: -2 * 0.9997. loss -(0.9085603 - 1.9994)/2 = 0.5454199; norm s/6 * sqrt(3).
    cosine (0.2 + 0.1) s/6 / (sqrt(0.41) * sqrt(3) s/6) = 0.3 / sqrt(1.23).
    """
    done = replay(Request(two_rows, ["grpo", "gspo"]))
    grpo, gspo = report.rows(done)
    want_grpo = {"value": 0.38, "gradient_norm": math.sqrt(0.41), "clip_low": 0.2, "clip_high": 0.2}
    want_grpo |= {"no_gradient": 0.4, "top_share": 2 / 3, "mean_ratio": 1.0}
    assert {name: grpo[name] for name in want_grpo} == pytest.approx(want_grpo, abs=1e-6)
    assert grpo["clip_low"] == 0.2
    norm = 0.9085603 / 6 * math.sqrt(3)
    ratio = (3 * 0.9085603 + 2 * 0.8660254) / 5
    want_gspo = {"value": 0.5454199, "gradient_norm": norm, "clip_low": 0.4, "clip_high": 0, "no_gradient": 0.4}
    want_gspo |= {"top_share": 0, "mean_ratio": ratio}
    assert {name: gspo[name] for name in want_gspo} == pytest.approx(want_gspo, abs=1e-6)
    assert done.cosine.tolist()[0] == pytest.approx([1, 0.3 / math.sqrt(1.23)], abs=1e-6)


def one_group(path: Path) -> Replay:
    """ESPO with one group a row and GSPO's range, beside GSPO."""
    return replay(Request(path, ["gspo", "espo"], [f"espo:{text}" for text in ONE_GROUP]))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 5))
def test_espo_with_one_group_is_gspo(tmp_path: Path, seed: int, rows: int) -> None:
    made.write(tmp_path / "made.parquet", rows, seed)
    done = one_group(tmp_path / "made.parquet")
    gspo, espo = report.rows(done)
    for name in ("value", "gradient_norm", "clip_low", "clip_high", "no_gradient", "top_share", "mean_ratio"):
        if gspo[name] is None:  # no share of a gradient that is 0
            assert espo[name] is None
        else:
            assert espo[name] == pytest.approx(gspo[name], rel=1e-9, abs=1e-12), name
    if gspo["gradient_norm"]:
        assert done.cosine[0, 1].item() == pytest.approx(1, abs=1e-12)


def test_table_of_espo_with_one_group(tmp_path: Path) -> None:
    made.write(tmp_path / "made.parquet", 16)
    done = one_group(tmp_path / "made.parquet")
    gspo, espo = report.cells(done)[1:]
    assert espo[1:] == gspo[1:]
    assert report.cosine_cells(done)[1:] == [["gspo", "1.0000", "1.0000"], ["espo", "1.0000", "1.0000"]]
    # And it clips, so that equal shares say something.
    assert done.measured[0].clip_low > 0.05
    assert done.measured[0].clip_high > 0.05


def test_json_has_every_number(two_rows: Path) -> None:
    data = json.loads(report.as_json(replay(Request(two_rows, ["grpo", "gspo"]))))
    assert data["tokens"] == 5
    assert [one["loss"] for one in data["losses"]] == ["grpo", "gspo"]
    assert data["losses"][1]["hyper_parameters"]["clip_ratio_low"] == 3e-4
    assert len(data["cosine"]) == 2
