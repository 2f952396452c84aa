"""Rules of the reader are found, watched and switched off, in processes of their own."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import reader, rules
from benchmarks.reader import Pair
from verl_ext.rewards._grading import grade

PAIRS = [
    Pair("a", "0.5", "\\dfrac{1}{2}", True, times=3),
    Pair("a", "5 \\text{ cm}", "50 \\text{ mm}", True),
    Pair("b", "1,-2", "-2,1", False),  # a label that the verifier does not share
    Pair("b", "7", "8", False),
    Pair("ground truths", "\\dfrac{1}{2}", None, True),
]


def test_what_changes_without_a_rule_the_rule_decided() -> None:
    found = {decided.rule: decided for decided in reader.ablation(PAIRS, workers=2)}
    assert set(found) == {rule.name for rule in rules.find()}
    (fractions,) = (
        decided for name, decided in found.items() if name.startswith("latex: _RENAMED") and "dfrac" in name
    )
    assert fractions.decided == {"a": 3, "ground truths": 1}
    assert fractions.rightly == fractions.decided
    pairing = found["equality: _paired()"]
    assert (pairing.decided["b"], pairing.rightly["b"]) == (1, 0)
    (metres,) = (decided for name, decided in found.items() if name.startswith("units: _SIMPLE") and " cm" in name)
    assert metres.decided["a"] == 1
    assert not found["grading: _is_endless()"].decided
    # This process keeps every rule.
    assert grade("\\dfrac{1}{2}", "0.5") == "correct"


def test_pairs_of_files_are_counted_and_reports_named(tmp_path: Path) -> None:
    rows = [
        {"source": "x", "truth": "1", "answer": "2", "right": False},
        {"source": "x", "truth": "1", "answer": "2", "right": False},
        {"kind": "G1", "ground_truth": "3", "answer": "4", "right": True},
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert reader.read_pairs([tmp_path / "pairs.jsonl"]) == [
        Pair("x", "1", "2", False, 2),
        Pair("reports", "3", "4", True),
    ]


def test_both_ways_are_compared_by_source() -> None:
    rows, disagreements = reader.compared([*PAIRS[:4], Pair("c", "8\\%", "0.08", True)])
    assert [(row["source"], row["pairs"], row.get("ours right")) for row in rows] == [
        ("a", 4, 4),
        ("b", 2, 1),
        ("c", 1, 1),
    ]
    assert any(row["truth"] == "8\\%" for row in disagreements) == (rows[2].get("disagree", 0) == 1)
