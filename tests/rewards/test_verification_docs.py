"""The measured tables of docs/verification.md are what `benchmarks/results` says."""

from __future__ import annotations

import json

import pytest

from benchmarks import rendered
from benchmarks.verification import RESULTS


def test_the_page_is_as_rendered() -> None:
    page = rendered.PAGE.read_text(encoding="utf-8")
    assert page == rendered.rendered(page), "run `python -m benchmarks.rendered`"


@pytest.mark.parametrize("name", rendered.TABLES)
def test_a_page_without_the_marks_of_a_table_is_refused(name: str) -> None:
    page = rendered.PAGE.read_text(encoding="utf-8").replace(f"<!-- end of {name} -->", "")
    with pytest.raises(ValueError, match=f"needs one '<!-- {name}: x -->'"):
        rendered.rendered(page)


def test_a_changed_number_is_noticed() -> None:
    kept = json.loads((RESULTS / "adversarial.json").read_text(encoding="utf-8"))
    changed = kept | {"answers": kept["answers"] + 1}
    assert rendered.TABLES["adversarial"](kept) != rendered.TABLES["adversarial"](changed)


def test_rules_of_a_table_are_one_line() -> None:
    rows = [
        {"rule": "units: _SIMPLE cm m", "decided": {"reports": 2}, "rightly": {"reports": 1}},
        {"rule": "units: _SIMPLE kg", "decided": {"ground truths": 3}, "rightly": {"ground truths": 3}},
        {"rule": "units: _SIMPLE hz", "decided": {}, "rightly": {}},
        {"rule": "units: parse()", "decided": {}, "rightly": {}},
    ]
    assert rendered.grouped(rows) == [("`units: _SIMPLE`, 2 entries", 2, 1, 3)]
