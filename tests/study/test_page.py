"""docs/study.md: it is what the results give, whichever of them are there."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.study import made
from verl_ext.study import figures, page, schema, tables
from verl_ext.study.claims import CLAIMS
from verl_ext.study.measures import by_method
from verl_ext.study.results import Result, read_all

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
FOLDER = ROOT / "recipes" / "cpu_study"
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


@cache
def study() -> schema.Study:
    return schema.read(FOLDER)


@cache
def every() -> list[Result]:
    """All runs of the study, with numbers of no meaning."""
    return [
        made.result(
            cell.method.name, cell.seed, cell.model, (0.4, 0.5, 0.5 + 0.05 * cell.seed), arguments=cell.arguments()
        )
        for cell in study().compared()
    ]


def links(text: str) -> set[str]:
    return set(LINK.findall(text))


def test_the_committed_page_is_made_from_the_committed_results() -> None:
    """`verl-ext study page recipes/cpu_study` renews it."""
    rendered = page.render(study(), read_all(FOLDER / "results"), read_all(FOLDER / "tuning"))
    assert (DOCS / "study.md").read_text(encoding="utf-8") == rendered


def test_the_readme_has_the_verdicts_of_the_page() -> None:
    (verdicts,) = re.findall(r"\(a claim on two models counts twice\): (.*)\.", (DOCS / "study.md").read_text("utf-8"))
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    assert f"(a claim on two models counts twice): {verdicts}." in readme


def test_the_committed_page_links_to_what_exists() -> None:
    text = (DOCS / "study.md").read_text(encoding="utf-8")
    assert [link for link in links(text) if not (DOCS / link).exists()] == []


def test_what_is_typed_about_the_budget_is_in_the_configuration() -> None:
    from verl_ext.train import compose

    cell = next(cell for cell in study().compared() if cell.method.name == "espo")
    config = compose(
        [*cell.arguments(), "actor_rollout_ref.model.path=m", "data.train_files=t", "data.val_files=v"]
    ).config
    actor = config.actor_rollout_ref.actor
    assert {
        "prompts": config.data.train_batch_size,
        "responses": config.actor_rollout_ref.rollout.n,
        "updates": config.data.train_batch_size // actor.ppo_mini_batch_size * actor.ppo_epochs,
        "learning_rate": f"{actor.optim.lr:.0e}".replace("e-0", "e-"),
    } == page.DESIGN
    assert config.actor_rollout_ref.rollout.val_kwargs.temperature == 1.0


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_any_results_give_a_page(data: st.DataObject) -> None:
    results = data.draw(st.lists(st.sampled_from(every()), unique_by=id, max_size=len(every())))
    text = page.render(study(), results)
    assert f"{len(results)} of {len(every())} runs are there." in text
    assert text.count("\n| 1 |") == sum("tiny" in model for model in CLAIMS[0].models)
    assert ("## Accuracy" in text) == bool(results)
    assert "\n\n\n\n" not in text
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|"), line
    tables_found = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    for table in tables_found:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table
    before = re.findall(r"([^\n]*)\n\|(?! ?-)[^\n]*\n\| ?-", text)
    assert not any(before), "a table needs an empty line before it"


def test_no_result_is_no_number() -> None:
    text = page.render(study(), [])
    assert "0 of 48 runs are there." in text
    assert "images/" not in text
    assert "missing: 1, 2, 3" in text
    assert "No candidate has been run yet." in text
    assert f"open: {sum(len(claim.models) for claim in CLAIMS) - 1}" in text


def test_the_order_of_the_results_does_not_matter() -> None:
    assert page.render(study(), every()) == page.render(study(), every()[::-1])


def test_all_results_leave_nothing_missing() -> None:
    text = page.render(study(), every())
    assert "missing" not in text.partition("## The claims")[2].partition("## Accuracy")[0]
    assert "other arguments" not in text
    assert {f"images/{picture.name}" for picture in figures.PICTURES} <= links(text)


def test_accuracies_and_their_differences() -> None:
    # espo: 70, 74, 78: 74 ± 4.303 * 4 / sqrt(3) = 74 ± 9.9. gspo: 60, 64, 68: the difference is 10 for every seed.
    results = [made.result("espo", seed, accuracy=(0.4, 0.5, 0.66 + 0.04 * seed)) for seed in (1, 2, 3)]
    results += [made.result("gspo", seed, accuracy=(0.4, 0.5, 0.56 + 0.04 * seed)) for seed in (1, 2, 3)]
    text = page.render(study(), results)
    assert "| ESPO, alpha 0.1 | 40.0 [40.0, 40.0] | 74.0 [64.1, 83.9] | 3 | +10.0 [+10.0, +10.0] |" in text


def test_steps_to_the_other_methods_score() -> None:
    results = [made.result("espo", 1, accuracy=(0.4, 0.6, 0.7)), made.result("espo", 2, accuracy=(0.4, 0.4, 0.5))]
    # Seed 3, which only GSPO has, does not count.
    results += [made.result("gspo", seed, accuracy=(0.4, 0.5, last)) for seed, last in ((1, 0.6), (2, 0.6), (3, 0.9))]
    found = by_method(results)
    marks = {"gspo": found["tiny_dense", "gspo"]}
    table = tables.steps_table(study(), [found["tiny_dense", "espo"], marks["gspo"]], marks)
    # The mean curve is 0.4, 0.5, 0.6 and there at step 6; seed 1 at step 3, seed 2 never.
    assert list(table.rows) == [["ESPO, alpha 0.1", "6.0 (3.0, not reached)"], ["GSPO, 3e-4 and 4e-4", ""]]


def test_intervals_of_shares_end_where_shares_do() -> None:
    assert tables.shown({1: 0.9, 2: 1.0, 3: 1.0}, tables.share, 0, 1) == "96.7 [82.3, 100.0]"  # ± 14.3
    assert tables.shown({1: 0.1, 2: 0.0, 3: 0.0}, tables.share, 0, 1) == "3.3 [0.0, 17.7]"
    assert tables.shown({1: 0.9}, tables.share, 0, 1) == "90.0"
    assert tables.shown({}, tables.share) == ""


def test_a_run_with_other_arguments_is_named() -> None:
    changed = [made.result("espo", 1, arguments=["algo=espo", "something=else"])]
    assert "should be repeated: tiny_dense/espo-seed1." in page.render(study(), changed)


def test_a_run_may_lack_what_went_without_saying_when_it_was_made() -> None:
    cell = next(cell for cell in study().compared() if cell.name == "tiny_dense/espo-seed1")
    (implied,) = cell.method.implied
    assert implied in cell.arguments()
    without = [argument for argument in cell.arguments() if argument != implied]
    for arguments, repeated in (
        (without, False),
        ([*without, implied.replace("0.1", "0.02")], True),
        (without[1:], True),
    ):
        text = page.render(study(), [made.result("espo", 1, arguments=arguments)])
        assert ("should be repeated" in text) == repeated, arguments


def test_how_alike_the_methods_of_one_seed_are_is_counted() -> None:
    # Each seed adds as much to every method: all that varies is the seed. In the other study nothing is the seed's.
    alike = [
        made.result(name, seed, accuracy=(0.4, 0.5, 0.5 + seed / 10)) for name in ("espo", "gspo") for seed in (1, 2, 3)
    ]
    assert "of one seed is 1.00 on `tiny_dense`: pairing" in " ".join(page.render(study(), alike).split())
    apart = [
        made.result(name, seed, accuracy=(0.4, 0.5, last))
        for name, last in (("espo", 0.5), ("gspo", 0.7))
        for seed in (1, 2, 3)
    ]
    assert "of one seed is -1.00 on" in " ".join(page.render(study(), apart).split())
    assert "intra-class" not in page.render(study(), alike[:3])


def test_what_holds_by_construction_is_named() -> None:
    results = [
        made.result(name, seed, clip_high=high) for name, high in (("tepo", 0.0), ("grpo", 0.1)) for seed in (1, 2, 3)
    ]
    (number,) = (place for place, claim in enumerate(CLAIMS, 1) if claim.key == "tepo-clips-grpo")
    assert f"1 (claim {number}) hold almost by construction" in page.render(study(), results)


def test_results_that_the_study_does_not_compare_are_left_out() -> None:
    strange = [made.result("espo", 77), made.result("no_such_method"), made.result("kl_cov", 1, "tiny_moe")]
    assert page.render(study(), strange) == page.render(study(), [])


def test_the_tuning_is_shown() -> None:
    tuning = study().tuning
    assert tuning is not None
    tuned = [made.result(name, tuning.seed, accuracy=(0.4, 0.5, 0.625)) for name in list(tuning.candidates)[:1]]
    text = page.render(study(), [], tuned)
    assert "62.5" in text
    assert text.count("not run") == len(tuning.candidates) - 1


def test_writing_leaves_the_page_and_its_pictures(tmp_path: Path) -> None:
    folder, docs = tmp_path / "cpu_study", tmp_path / "docs"
    folder.mkdir()
    (folder / "study.yaml").write_text((FOLDER / "study.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    result = made.result("espo", 1)
    file = folder / "results" / "tiny_dense" / "espo-seed1.json"
    result.write(file)
    written = page.write(folder, docs)
    text = (docs / "study.md").read_text(encoding="utf-8")
    assert all(path.stat().st_size > 1000 for path in written)
    assert {link for link in links(text) if link.startswith("images/")} == {
        str(path.relative_to(docs)) for path in written if path.suffix == ".png"
    }
    (docs / "images" / "other.png").write_bytes(b"")
    file.unlink()
    assert page.write(folder, docs) == [docs / "study.md"]
    assert [path.name for path in (docs / "images").iterdir()] == ["other.png"]


@pytest.mark.parametrize("name", [picture.name for picture in figures.PICTURES])
def test_every_picture_has_its_place_on_the_page(name: str) -> None:
    assert page.render(study(), [made.result("espo")]).count(f"(images/{name})") == 1
