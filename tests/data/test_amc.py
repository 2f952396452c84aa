r"""The two sets that papers call AMC: 83 problems of two years, and the 40 of one; numbers, not choices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.data.sources import parquet
from verl_ext.data.faults import DataError
from verl_ext.data.prepare import Options, prepare
from verl_ext.data.registry import datasets

UNCHECKED = Options(check_answers=False)
LOOSE = Options(check_answers=False, accept_unverified=True)
PAGE = "https://artofproblemsolving.com/wiki/index.php/{}_AMC_12A_Problems/Problem_{}"


def of_aimo(count: int = 83) -> list[dict[str, Any]]:
    """Rows in the hub's schema: `id` starts again with each year, answers are floats."""
    years = [(2022, n) for n in range(43)] + [(2023, n) for n in range(40)]
    return [
        {
            "id": n,
            "problem": f"{n} of {year}: $\\frac{{m}}{{n}} = {n}$. What is $m+n-{year}$?",
            "answer": float(n + 1),
            "url": PAGE.format(year, n + 1),
        }
        for year, n in years[:count]
    ]


def test_two_years_with_whole_numbers_for_answers(tmp_path: Path) -> None:
    done = prepare("amc83", None, tmp_path, parquet(tmp_path / "a.parquet", of_aimo()), UNCHECKED)
    rows = pq.read_table(done.parquet).to_pylist()
    assert [rows[n]["reward_model"]["ground_truth"] for n in (0, 42, 43, 82)] == ["1", "43", "1", "40"]
    assert (len(rows), done.content["unverified"], done.content["template"]["name"]) == (83, True, "boxed")
    # Both years have a problem of each number, and both are kept.
    assert [row["extra_info"]["source_index"] for row in rows].count("0") == 2
    assert rows[43]["extra_info"]["problem"] == "0 of 2023: $\\frac{m}{n} = 0$. What is $m+n-2023$?"


def test_one_year_is_another_benchmark(tmp_path: Path) -> None:
    half = parquet(tmp_path / "a.parquet", of_aimo()[43:])
    with pytest.raises(DataError, match="40 different problems where 83 are expected"):
        prepare("amc83", None, tmp_path, half, UNCHECKED)
    assert (datasets()["amc23"].problems, datasets()["amc83"].problems) == (40, 83)


@pytest.mark.parametrize("name", ["amc83", "amc23"])
@pytest.mark.parametrize("how", [UNCHECKED, LOOSE])
def test_the_version_with_choices_is_refused(tmp_path: Path, name: str, how: Options) -> None:
    choices = r"$\textbf{(A)}\ 1\qquad\textbf{(B)}\ 2\qquad\textbf{(C)} 3\qquad\textbf{(D)}\ 4\qquad\textbf{(E)}\ 5$"
    rows = [{**row, "answer": str(int(row["answer"]))} for row in of_aimo(datasets()[name].problems or 0)]
    rows[1]["answer"] = "C"
    rows[2]["problem"] += choices
    rows[3] |= {"answer": r"\textbf{(B)}\ 2", "problem": "What? (A) 1 (B) 2 (C) 3 (D) 4 (E) 5"}
    # Points have letters too, and not every number is whole.
    rows[4] |= {"answer": "-2.5", "problem": "Let f(A) = B and f(B) = 2. Find f(f(A)) - 4.5."}
    with pytest.raises(DataError) as caught:
        prepare(name, None, tmp_path, parquet(tmp_path / "a.parquet", rows), how)
    found = {fault.what.partition(";")[0]: [p.row for p in fault.places] for fault in caught.value.faults[:2]}
    assert found == {"the answer is no number": [1, 3], "the problem lists choices": [2, 3]}


def test_other_benchmarks_may_have_other_answers(tmp_path: Path) -> None:
    rows = [{"problem": row["problem"], "answer": "x + C"} for row in of_aimo(30)]
    assert prepare("hmmt25", None, tmp_path, parquet(tmp_path / "a.parquet", rows), UNCHECKED).content["rows"] == 30
