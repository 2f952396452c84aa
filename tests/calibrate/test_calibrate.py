"""Proposals on dumps whose answer can be worked out by hand, and predictions against what replay measures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from verl_ext import batch_file
from verl_ext.calibrate import espo, figure, report, sspo
from verl_ext.calibrate.command import calibrate as command
from verl_ext.calibrate.run import Calibration, Request, calibrate
from verl_ext.calibrate.solving import clipped_share, solve
from verl_ext.replay import made
from verl_ext.replay.faults import ReplayError
from verl_ext.replay.measure import Measured
from verl_ext.replay.run import Request as ReplayRequest
from verl_ext.replay.run import replay


@pytest.fixture
def ladder(tmp_path: Path) -> Path:
    """Ten rows of one token: ratio 1 + k/100, A = 1, half the greatest entropy of 4 tokens. So alpha_k = k/50."""
    path = tmp_path / "ladder.parquet"
    columns: dict[str, Any] = {
        "key": [str(k) for k in range(1, 11)],
        "response_mask": [[1]] * 10,
        "advantages": [[1]] * 10,
        "old_log_probs": [[-2]] * 10,
        "log_probs": [[-2 + math.log(1 + k / 100)] for k in range(1, 11)],
        "entropy": [[0.5 * math.log(4)]] * 10,
        "segment_ids": [[0]] * 10,
    }
    batch_file.write(path, columns, 1, {"vocab_size": 4})
    return path


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "made.parquet"
    made.write(path, rows=32)
    return path


def measured(path: Path, loss: str, **values: float) -> Measured:
    """What replay measures with these hyper-parameters."""
    return replay(ReplayRequest(path, [loss], [f"{loss}:{name}={value!r}" for name, value in values.items()])).measured[
        0
    ]


def for_espo(found: Calibration) -> tuple[espo.Proposal, float]:
    assert found.espo is not None
    assert found.espo.solution.value is not None
    return found.espo, found.espo.solution.value


def test_target_by_hand(ladder: Path) -> None:
    """30% of ten tokens are those of alpha_8, alpha_9 and alpha_10: the least alpha is alpha_7 = 0.14."""
    proposal, alpha = for_espo(calibrate(Request(ladder, ["espo"], target_clip=0.3)))
    assert 0.14 - 1e-6 < alpha < 0.14 * 1.05
    assert proposal.solution.fraction == 0.3
    assert proposal.solution.reason == ""
    found = measured(ladder, "espo", alpha=alpha)
    assert (found.clip_low, found.clip_high) == (0, 0.3)


def test_width_by_hand(ladder: Path) -> None:
    """GSPO's widths 3e-4 and 4e-4 have the mean 3.5e-4, the mean normalised entropy is 0.5: alpha = 7e-4."""
    found = calibrate(Request(ladder, ["espo"]))
    proposal, alpha = for_espo(found)
    assert alpha == 7e-4
    assert proposal.tokens.width(alpha) == pytest.approx(3.5e-4, rel=1e-6)
    assert found.matched is not None
    assert found.matched.clip_high == 1.0  # every ratio is above 1.0004


def test_unreachable_targets() -> None:
    """Two of four tokens move with their advantage; one of them has no entropy, hence no width."""
    tokens = espo.Tokens(np.array([1.1, 1.1, 0.9, 1.0]), np.array([0.5, 0.0, 0.5, 0.5]), np.array([1.0, 1, 1, 1]))
    high = espo.for_target(tokens, 0.75).solution
    assert high.value is None
    assert high.reason == "no value clips as much as 0.75: even 0 clips 0.5"
    low = espo.for_target(tokens, 0.1).solution
    assert low.value is None
    assert low.reason == "no value clips as little as 0.1: 0.25 is clipped at any value"
    assert espo.for_target(tokens, 0.5).solution.value == 0
    value = espo.for_target(tokens, 0.25).solution.value
    assert value is not None
    assert 0.2 < value < 0.2 * 1.051  # just above 0.1 / 0.5


def test_ties_are_told() -> None:
    """Three of five tokens share a group: the share falls from 3/5 to 0, past 2/5."""
    found = solve(np.array([0.1, 0.1, 0.1, -np.inf, -np.inf]), 0.4)
    assert found.fraction == 0
    assert found.reason.startswith("3 tokens share a group and so a critical value, 0.1")
    assert "from 0.6 to 0" in found.reason


@given(
    st.lists(st.sampled_from([-np.inf, -0.1, 0.0, 0.01, 0.02, 0.02001, 0.5, 7.0, np.inf]), min_size=1, max_size=30),
    st.floats(0, 1),
)
def test_the_solution_is_the_least_that_will_do(critical: list[float], target: float) -> None:
    values = np.array(critical)
    found = solve(values, target)
    if found.value is None:
        reachable = np.isposinf(values).mean() <= target <= (values > 0).mean()
        assert not reachable
        return
    assert found.fraction == clipped_share(values, found.value) <= target + 1e-9
    below = values[(values < found.value) & (values > 0)]
    if len(below):
        assert clipped_share(values, np.nextafter(below.max(), 0)) > target


@pytest.mark.parametrize("target", [0.0, 0.02, 0.05, 0.2])
def test_predicted_share_is_what_replay_measures(dump: Path, target: float) -> None:
    proposal, alpha = for_espo(calibrate(Request(dump, ["espo"], target_clip=target)))
    found = measured(dump, "espo", alpha=alpha)
    assert proposal.tokens.clipped(alpha) == (found.clip_low, found.clip_high)
    assert found.clip_low + found.clip_high == pytest.approx(proposal.solution.fraction, abs=1e-12)
    assert proposal.solution.fraction <= target
    # The margin above the least alpha is 5% at most.
    less = measured(dump, "espo", alpha=alpha / 1.06)
    assert less.clip_low + less.clip_high > target


def test_matched_width_and_sspo_are_what_replay_measures(dump: Path) -> None:
    found = calibrate(Request(dump))
    proposal, alpha = for_espo(found)
    replayed = measured(dump, "espo", alpha=alpha)
    assert replayed.clip_low > 0.05
    assert proposal.tokens.clipped(alpha) == (replayed.clip_low, replayed.clip_high)
    assert replayed.upper is not None
    width = float((replayed.upper - 1)[found.dump.mask].mean())
    assert width == pytest.approx(3.5e-4, rel=5e-3)  # alpha has three digits
    assert found.sspo is not None
    for values in (found.sspo.values, {"alpha": 0.0, "beta": 0.98, "gamma": 1.02}):
        replayed = measured(dump, "sspo", **values)
        assert found.sspo.segments.clipped(**values) == pytest.approx(
            (replayed.clip_low, replayed.clip_high), abs=1e-12
        )
    assert min(replayed.clip_low, replayed.clip_high) > 0.01


def segments(*entropies: float) -> sspo.Segments:
    entropy = np.array(entropies)
    return sspo.Segments(np.ones_like(entropy), entropy, np.ones_like(entropy), np.ones_like(entropy))


@pytest.mark.parametrize(
    ("entropies", "alpha", "beta", "gamma"),
    [
        # Median 0.3: more than PPO's room. 1 - 0.3. 90%: 0.4 + 0.6 * 0.4 = 0.64, so 1.64 and up to the grid.
        ((0.1, 0.2, 0.3, 0.4, 0.8), 0.0, 0.7, 1.65),
        # Median 0.1: 0.2 - 0.1. 1 - 0.1 is above 0.8. 90%: 0.1 + 0.8 * 0.05 = 0.14, so 1.24.
        ((0.05, 0.1, 0.15), 0.1, 0.8, 1.25),
        # More than a nat in every segment: no lower bound is left. 1 + 2.
        ((2.0, 2.0), 0.0, 0.0, 3.0),
    ],
)
def test_sspo_by_hand(entropies: tuple[float, ...], alpha: float, beta: float, gamma: float) -> None:
    assert sspo.propose(segments(*entropies)).values == {"alpha": alpha, "beta": beta, "gamma": gamma}


def test_segments_count_once_and_clip_with_their_tokens(tmp_path: Path) -> None:
    """One row, A = 1: 3 tokens of 0.2 nats at a ratio of 1.1, one of 0.6 nats at 1.5."""
    path = tmp_path / "row.parquet"
    columns: dict[str, Any] = {
        "key": ["a"],
        "response_mask": [[1] * 4],
        "advantages": [[1] * 4],
        "old_log_probs": [[-2] * 4],
        "log_probs": [[-2 + math.log(1.1)] * 3 + [-2 + math.log(1.5)]],
        "entropy": [[0.1, 0.2, 0.3, 0.6]],
        "segment_ids": [[0, 0, 0, 1]],
    }
    batch_file.write(path, columns, 1)
    found = calibrate(Request(path, ["sspo"])).sspo
    assert found is not None
    assert found.segments.entropy.tolist() == pytest.approx([0.2, 0.6], abs=1e-6)
    assert found.segments.size.tolist() == [3, 1]
    assert found.segments.quantile(0.5) == pytest.approx(0.4)
    assert found.segments.clipped(0.0, 0.8, 1.4) == (0, 0.25)  # 1.5 > 1.4, but 1.1 < 1.2
    assert found.segments.clipped(0.0, 0.8, 1.05) == (0, 1.0)


def test_faults_at_once(tmp_path: Path) -> None:
    request = Request(tmp_path / "none", ["gspo", "espo"], 2.0, "gspo", ["sspo:beta=1"], plot=Path("a.svg"))
    with pytest.raises(ReplayError) as error:
        calibrate(request)
    text = str(error.value)
    expected = ("--loss gspo", "--target-clip 2", "give one of them", "--set sspo:beta=1", "a.svg", "does not exist")
    assert [part for part in expected if part not in text] == []


def test_what_is_missing(ladder: Path, tmp_path: Path) -> None:
    columns = dict(batch_file.read(ladder).columns)
    del columns["segment_ids"], columns["log_probs"]
    path = tmp_path / "less.parquet"
    batch_file.write(path, columns, 1, {"vocab_size": 4})
    found = calibrate(Request(path))
    assert found.sspo is None
    assert any(note.startswith("left out: sspo: the file has no segment_ids") for note in found.notes)
    assert any("say nothing about training" in note for note in found.notes)
    with pytest.raises(ReplayError, match="segment_ids"):
        calibrate(Request(path, ["sspo"]))


def test_command(dump: Path, ladder: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(command)
    out = tmp_path / "plots" / "clip.png"
    done = CliRunner().invoke(app, [str(dump), "--plot", str(out)])
    assert done.exit_code == 0, done.output
    assert "+actor_rollout_ref.actor.policy_loss.gamma=" in done.output
    assert out.read_bytes().startswith(b"\x89PNG")
    done = CliRunner().invoke(app, [str(ladder), "--loss", "espo", "--target-clip", "0.3", "--json"])
    assert json.loads(done.output)["espo"]["clip_high"] == 0.3
    columns = {**batch_file.read(ladder).columns, "advantages": [[-1]] * 10}
    batch_file.write(tmp_path / "down.parquet", columns, 1, {"vocab_size": 4})
    done = CliRunner().invoke(app, [str(tmp_path / "down.parquet"), "--loss", "espo", "--target-clip", "0.3"])
    assert done.exit_code == 1
    assert "no value clips as much as 0.3: even 0 clips 0" in done.output


def test_picture_of_one_loss(ladder: Path) -> None:
    found = calibrate(Request(ladder, ["espo"], target_clip=0.3))
    assert figure.picture(found).startswith(b"\x89PNG")
    assert report.lines(found)[2] == "ESPO, for no more than 30% clipped"


@pytest.mark.parametrize("options", [[], ["--target-clip", "0.05"]])
def test_nothing_is_proposed_from_a_batch_without_a_signal(dump: Path, tmp_path: Path, options: list[str]) -> None:
    """Every advantage 0. GSPO's mean width over the mean entropy needs none, and is called what it is."""
    columns = dict(batch_file.read(dump).columns)
    columns["advantages"] = [np.zeros(len(row)) for row in columns["advantages"]]
    path, plot = tmp_path / "silent.parquet", tmp_path / "plot.png"
    batch_file.write(path, columns, 1, {"vocab_size": made.VOCAB})
    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, [str(path), "--plot", str(plot), *options])
    assert done.exit_code == 1
    assert done.output.startswith("no signal: the advantage of every token is 0, ")
    assert "No clip range is proposed." in done.output
    assert "policy_loss" not in done.output
    assert ("ESPO, for the mean clip width of gspo" in done.output) == (not options)
    assert f"not written: {plot}" in done.output
    assert not plot.exists()
    data = json.loads(CliRunner().invoke(app, [str(path), "--json", *options]).output)
    assert (data["signal"], data["espo"]["alpha"], data["sspo"]["alpha"]) == (False, None, None)


def test_no_alpha_meets_a_target_where_every_ratio_is_one() -> None:
    tokens = espo.Tokens(np.ones(4), np.full(4, 0.5), np.ones(4))
    for target in (0.0, 0.05):
        found = espo.for_target(tokens, target).solution
        assert found.value is None
        assert found.reason.startswith("every ratio is 1")
