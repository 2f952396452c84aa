"""Which problems of a benchmark a training set holds, against counts made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.data.sources import json_lines, thirty, verl_row
from verl_ext.data.command import app
from verl_ext.data.contamination import Item, compare, grams
from verl_ext.data.prepare import Options, prepare


def items(*texts: str) -> list[Item]:
    return [Item(n, text, "1") for n, text in enumerate(texts)]


def test_kinds_and_shares_by_hand() -> None:
    train = [
        Item(0, "a b c d e f", "1"),
        Item(1, "A B, C d e f", "2"),
        # Of the 3-grams of "a b c d e f", abc bcd cde def, it has abc and bcd.
        Item(2, "x a b c d y", "1"),
        Item(3, "unrelated words that stand here alone", "1"),
    ]
    bench = {
        "one": items("a b c d e f", "a b  C d e f!", "q a b c d e f"),
        "two": items("no two words the same as there", "a b"),
    }
    report = compare("train", train, bench, ngram=3, threshold=0.5)
    found = [(p.benchmark, p.index, p.train_index, p.kind, round(p.share, 3), p.same_answer) for p in report.pairs]
    assert found == [
        ("one", 0, 0, "exact", 1.0, True),
        ("one", 0, 1, "normalised", 1.0, False),
        ("one", 0, 2, "overlap", 0.5, True),
        ("one", 1, 0, "normalised", 1.0, True),
        ("one", 1, 1, "normalised", 1.0, False),
        ("one", 1, 2, "overlap", 0.5, True),
        # qab abc bcd cde def: four of five in rows 0 and 1, two of five in row 2.
        ("one", 2, 0, "overlap", 0.8, True),
        ("one", 2, 1, "overlap", 0.8, False),
    ]
    one, two = report.rows
    assert (one.problems, one.exact, one.normalised, one.overlap, one.found, one.too_short) == (3, 1, 1, 1, 3, 0)
    # Shares that the whole set has: 1, 1 and 4/5.
    assert one.mean_share == pytest.approx((1 + 1 + 0.8) / 3)
    assert (two.found, two.too_short, two.mean_share) == (0, 1, 0.0)


def test_order_of_words_matters_and_repeated_pieces_count_once() -> None:
    assert grams("a b a b a", 2) == {("a", "b"), ("b", "a")}
    report = compare("t", items("c b a"), {"b": items("a b c")}, ngram=2)
    assert report.pairs == []


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(alphabet="ab .", max_size=12), max_size=5), st.lists(st.text(alphabet="ab .", max_size=12)))
def test_more_training_problems_never_hide_a_pair(train: list[str], more: list[str]) -> None:
    bench = {"b": items("a b a a b", "b a")}
    few = compare("t", items(*train), bench, ngram=2)
    many = compare("t", items(*train, *more), bench, ngram=2)
    assert set(few.pairs) <= set(many.pairs)
    assert few.rows[0].mean_share <= many.rows[0].mean_share


@pytest.mark.parametrize(("ngram", "threshold"), [(1, 0.5), (13, 0.0), (13, 1.1)])
def test_settings_that_make_no_sense(ngram: int, threshold: float) -> None:
    with pytest.raises(ValueError, match="need at least 2 words"):
        compare("t", items("a"), {}, ngram, threshold)


def test_the_command_reports_what_was_prepared_and_where_all_pairs_are(tmp_path: Path) -> None:
    loose = Options(check_answers=False, accept_unverified=True)
    texts = [(f"How many sheep are there in field number {n}?", str(n)) for n in range(7)]
    bench = json_lines(tmp_path / "b.jsonl", [{"problem": p, "answer": a} for p, a in texts])
    train = json_lines(tmp_path / "t.jsonl", [verl_row(texts[2][0].upper(), "2")])
    runner = CliRunner()
    command = ["contamination", "--train", "math_l3to5", "--out", str(tmp_path), "--ngram", "4"]
    absent = runner.invoke(app, command)
    assert absent.exit_code == 2
    prepare("hmmt25", "boxed", tmp_path, bench, loose)
    prepare("math_l3to5", "plain", tmp_path, train, loose)
    result = runner.invoke(app, command, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    data = json.loads((tmp_path / "math_l3to5" / "contamination.json").read_text())
    assert {("normalised", 2, 1.0)} == {(p["kind"], p["index"], p["share"]) for p in data["pairs"] if p["share"] == 1}
    # "how many sheep are there in field number 3" has nine words, six 4-grams, of which five are in row 2's text.
    assert data["rows"][0]["normalised"] == 1
    assert data["rows"][0]["overlap"] == 6
    assert data["pairs"][1]["share"] == pytest.approx(5 / 6)
    assert "hmmt25" in result.output
    unknown = runner.invoke(app, ["contamination", "--train", "gsm8k", "--out", str(tmp_path)])
    assert unknown.exit_code == 2


def test_prepare_and_list_as_commands(tmp_path: Path) -> None:
    runner = CliRunner()
    source = json_lines(tmp_path / "h.jsonl", [{"problem": p, "answer": a} for p, a in thirty()])
    arguments = ["prepare", "hmmt25", "--from", str(source), "--out", str(tmp_path), "--no-check-answers"]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "30 from 30 rows of h.jsonl" in done.output
    assert "hmmt25: unverified" in done.output
    listed = json.loads(runner.invoke(app, ["list", "--json", "--out", str(tmp_path)]).output)
    assert next(row["prepared"] for row in listed if row["name"] == "hmmt25") == ["boxed"]
    assert "hmmt25" in runner.invoke(app, ["list", "--out", str(tmp_path)]).output
    short = json_lines(tmp_path / "s.jsonl", [{"problem": "p", "answer": ""}])
    failed = runner.invoke(app, ["prepare", "hmmt25", "--from", str(short), "--out", str(tmp_path / "x")])
    assert failed.exit_code == 2
    assert "the answer is empty" in failed.output
    assert not (tmp_path / "x").exists()
    two = runner.invoke(app, ["prepare", "hmmt25", "aime24", "--from", str(short)])
    assert two.exit_code == 2
    (tmp_path / "t.txt").write_text("no place")
    wrong = runner.invoke(app, [*arguments, "--baked-in", str(tmp_path / "t.txt")])
    assert wrong.exit_code == 2


def test_a_template_in_a_file_is_taken_off(tmp_path: Path) -> None:
    rows = [{"problem": f"Consider this one with great care, please:\n{p}", "answer": a} for p, a in thirty()]
    source = json_lines(tmp_path / "h.jsonl", rows)
    (tmp_path / "care.txt").write_text("Consider this one with great care, please:\n{problem}\n")
    arguments = ["prepare", "hmmt25", "--from", str(source), "--out", str(tmp_path), "--no-check-answers"]
    runner = CliRunner()
    assert "a template that is not known" in runner.invoke(app, arguments).output
    done = runner.invoke(app, [*arguments, "--baked-in", str(tmp_path / "care.txt")])
    assert "care off 30 rows" in done.output
