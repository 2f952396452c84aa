"""Names of runs, and runs taken together: what is averaged, over which steps, with which band."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.run_report import made
from verl_ext.run_report.history import History, Record
from verl_ext.run_report.methods import Band, Method, gather, short_names, split
from verl_ext.run_report.sources import Logged, SourceError


def method(*runs: dict[int, dict[str, float]]) -> Method:
    histories = [History([Record(step, values) for step, values in run.items()]) for run in runs]
    return Method("espo", tuple(Logged(history, "made", ()) for history in histories))


def test_the_band_of_three_seeds() -> None:
    """Step 1: mean of 1, 2, 6 is 3; step 2 lacks a value of the third run; step 3: mean of 3, 3, 0 is 2."""
    three = method(
        {1: {"a": 1.0}, 2: {"a": 5.0}, 3: {"a": 3.0}},
        {1: {"a": 2.0}, 2: {"a": 5.0}, 3: {"a": 3.0}},
        {1: {"a": 6.0}, 2: {"b": 5.0}, 3: {"a": 0.0}},
    )
    found = three.band(lambda history: history.series("a"))
    assert found == Band([1, 3], [3.0, 2.0], [1.0, 0.0], [6.0, 3.0])
    assert three.figures(lambda history: history.series("a"), lambda values: values[-1]) == [3.0, 3.0, 0.0]


def test_the_mean_history_has_what_all_runs_have() -> None:
    """Step 2 is in one run only; of step 1, `b` is. a: (1 + 4) / 2."""
    two = method({1: {"a": 1.0, "b": 9.0}, 2: {"a": 1.0}}, {1: {"a": 4.0}})
    assert two.mean.records == [Record(1, {"a": 2.5})]
    alone = method({1: {"a": 1.0, "b": 9.0}})
    assert alone.mean.records == alone.histories[0].records


def test_accuracy_is_averaged_over_sources_first() -> None:
    """Two data sources: run 1 has (0.2 + 0.6) / 2 = 0.4, run 2 (0.5 + 0.1) / 2 = 0.3; mean 0.35, from 0.3 to 0.4."""
    a, b = "val-core/a/acc/mean@1", "val-core/b/acc/mean@1"
    found = method({0: {a: 0.2, b: 0.6}}, {0: {a: 0.5, b: 0.1}}).band(History.accuracy)
    assert [values[0] for values in found] == pytest.approx([0, 0.35, 0.3, 0.4])


def test_names_come_from_where_paths_differ() -> None:
    assert short_names([("out", "espo", "seed1")]) == ["espo/seed1"]
    assert short_names([("a", "espo", "1"), ("b", "espo", "1")]) == ["a", "b"]
    assert short_names([("x", "a", "1"), ("x", "b", "2")]) == ["1", "2"]
    assert short_names([("x", "a", "1"), ("x", "b", "1"), ("x", "b", "2")]) == ["a/1", "b/1", "b/2"]


def test_an_argument_may_have_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert split("espo=runs/a") == ("espo", Path("runs/a"))
    assert split("runs/a") == ("", Path("runs/a"))
    (tmp_path / "lr=1e-4").mkdir()
    assert split("lr=1e-4") == ("", Path("lr=1e-4"))
    assert split("~/a") == ("", Path(os.path.expanduser("~/a")))


def seeds(folder: Path) -> list[str]:
    for algo, reward in (("espo", 0.25), ("gspo", 0.125)):
        for seed in (1, 2):
            made.log(folder / algo / f"seed{seed}" / "logs" / "metrics-1.jsonl", made.rows(reward * seed))
    return [str(folder / algo / f"seed{seed}") for algo in ("espo", "gspo") for seed in (1, 2)]


def test_seeds_are_taken_together_when_asked_for(tmp_path: Path) -> None:
    """Rewards at step 2: espo 0.5 and 1.0, gspo 0.25 and 0.5."""
    runs = seeds(tmp_path)
    assert [m.name for m in gather(runs)] == ["espo/seed1", "espo/seed2", "gspo/seed1", "gspo/seed2"]
    espo, gspo = gather(runs, seeds=True)
    assert (espo.name, len(espo.runs), gspo.name) == ("espo", 2, "gspo")
    assert espo.band(lambda history: history.series("reward")).mean == [0.375, 0.75]
    logs = [f"{run}/logs/metrics-1.jsonl" for run in runs]
    assert [m.name for m in gather(logs, seeds=True)] == ["espo", "gspo"]
    named = gather([f"mine={runs[0]}", f"mine={runs[1]}"], seeds=True)
    assert [(m.name, len(m.runs)) for m in named] == [("mine", 2)]


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    runs = seeds(tmp_path)
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(SourceError) as error:
        gather([f"a={runs[0]}", f"a={runs[1]}", str(tmp_path / "gone"), str(tmp_path / "x.txt")])
    faults = str(error.value).splitlines()
    assert len(faults) == 3
    assert "gone: no such file" in faults[0]
    assert "x.txt: not a log" in faults[1]
    assert faults[2].startswith("a: 2 runs have this name (")
    with pytest.raises(SourceError, match="no run was named"):
        gather([])


def test_seeds_without_a_common_step_are_a_fault(tmp_path: Path) -> None:
    made.log(tmp_path / "seed1" / "metrics.jsonl", {1: {"a": 1.0}})
    made.log(tmp_path / "seed2" / "metrics.jsonl", {2: {"a": 1.0}})
    with pytest.raises(SourceError, match="its 2 runs have no step in common"):
        gather([f"a={tmp_path}/seed1", f"a={tmp_path}/seed2"], seeds=True)
