"""What a dump is read as, what each loss is given, and how bad input is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from verl_ext import batch_file
from verl_ext.replay import figure, made, report
from verl_ext.replay.command import replay as command
from verl_ext.replay.dump import Selection, load
from verl_ext.replay.faults import ReplayError
from verl_ext.replay.inputs import prepare
from verl_ext.replay.run import Request, replay
from verl_ext.replay.subjects import build
from verl_ext.toy.models import build_tokenizer

Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Writes a made batch with columns changed (None takes one out)."""

    def write(rows: int = 4, about: Mapping[str, Any] | None = None, **changes: Sequence[Any] | None) -> Path:
        columns = {**made.columns(rows), **changes}
        path = tmp_path / "batch.parquet"
        given = {"vocab_size": made.VOCAB} if about is None else about
        batch_file.write(path, {k: v for k, v in columns.items() if v is not None}, 1, given)
        return path

    return write


def like(values: float, rows: int = 4) -> list[np.ndarray]:
    """A column with one value."""
    return [np.full(len(mask), values) for mask in made.columns(rows)["response_mask"]]


def test_without_log_probs_every_ratio_is_one(write: Writer) -> None:
    done = replay(Request(write(log_probs=None, current_entropy=None), ["gspo", "steer"]))
    assert [row["mean_ratio"] for row in report.rows(done)] == [1, 1]
    assert any("every ratio is 1" in note for note in done.notes)


def test_columns_that_stand_for_others_are_told(write: Writer) -> None:
    path = write(old_log_probs=None, rollout_log_probs=made.columns(4)["old_log_probs"])
    assert load(path).notes == ("the file has no old_log_probs; rollout_log_probs stands for it",)


def test_rows_that_do_not_count(write: Writer) -> None:
    masks = made.columns(4)["response_mask"]
    path = write(
        is_padding=[True, False, False, False],
        mini_batch=[0, 0, 1, 1],
        response_mask=[masks[0], masks[1], masks[2] * 0, masks[3]],
    )
    assert load(path).keys == ["0_0_1", "0_0_3"]
    assert load(path, Selection(mini_batch=1)).keys == ["0_0_3"]
    with pytest.raises(ReplayError, match="--mini-batch 7: it has 0, 1"):
        load(path, Selection(mini_batch=7))


def test_values_that_are_not_finite(write: Writer) -> None:
    advantages = made.columns(4)["advantages"]
    advantages[1][3] = np.nan
    path = write(advantages=advantages)
    with pytest.raises(ReplayError, match="column advantages: 1 rows, first 0_0_1"):
        load(path)
    assert load(path, Selection(only_finite=True)).keys == ["0_0_0", "0_0_2", "0_0_3"]


def test_entropy_groups_are_made_anew(write: Writer) -> None:
    """The same column holds the groups of another loss, or of other quantiles."""
    groups = [np.zeros(len(mask), dtype=int) for mask in made.columns(4)["response_mask"]]
    dump = load(write(group_ids=groups))
    ids = prepare(dump, build(["espo"]))[0].context.group_ids
    assert ids is not None
    # By rank: of n tokens those from floor(0.8 n + 0.5) on are in group 1.
    sizes = dump.mask.sum(-1)
    assert (ids == 1).sum(-1).tolist() == [int(n) - int(np.floor(0.8 * int(n) + 0.5)) for n in sizes]


def test_segments_of_file_and_of_tokenizer(write: Writer) -> None:
    """Byte 10 is a line break: two of them end a segment, as in `ab\\n\\ncd`."""
    text = [97, 98, 10, 10, 99, 100]
    columns: dict[str, Any] = {
        name: [rows[0][:6]] for name, rows in made.columns(1).items() if name not in ("key", "uid")
    }
    columns |= {"key": ["a"], "uid": ["a"], "responses": [text], "segment_ids": [[0, 1, 2, 3, 4, 5]]}
    unknown = load(write(1, **columns))
    sspo = build(["sspo"])
    found = prepare(unknown, sspo, build_tokenizer())[0].context.segment_ids
    assert found is not None
    assert found.tolist() == [[0, 0, 0, 0, 1, 1]]
    kept = prepare(unknown, sspo)[0]
    assert torch.equal(kept.context.segment_ids, unknown.tensors["segment_ids"])
    assert "whatever delimiter" in kept.notes[0]
    known = load(write(1, about={"loss": "sspo", "hyper_parameters": {"delimiter": "\n\n"}}, **columns))
    assert prepare(known, sspo, build_tokenizer())[0].context.segment_ids.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_what_losses_lack_is_one_list(write: Writer) -> None:
    path = write(segment_ids=None, entropy=None, current_entropy=None, about={})
    with pytest.raises(ReplayError) as error:
        replay(Request(path, ["espo", "sspo", "steer", "gspo"]))
    assert error.value.faults == [
        "espo and sspo: the file has no entropy or rollout_entropies",
        "espo: the file has no vocab_size; give --vocab-size, or --model",
        "sspo: the file has no segment_ids; give --tokenizer with the model's folder, so that they can be made from "
        "the responses",
        "steer: the file has no current_entropy; use an export of a run with actor.calculate_entropy=True, or give "
        "--model",
    ]


def test_all_faults_at_once(write: Writer) -> None:
    request = Request(
        write(advantages=None, old_log_probs=None),
        ["esppo", "espo", "gspo", "gspo"],
        ["espo:alpha=-1", "sspo:beta=1", "espo"],
        top=1.5,
        out=Path("x.svg"),
    )
    with pytest.raises(ReplayError) as error:
        replay(request)
    text = str(error.value)
    expected = (
        "--top 1.5",
        "--out x.svg",
        "no column advantages",
        "no column old_log_probs or rollout_log_probs",
        "--loss esppo: no preset of configs/algo and no loss of verl's; did you mean 'espo'?",
        "--loss gspo twice",
        "--set sspo:beta=1: no --loss sspo",
        "--set espo: write LOSS:key=value",
        "--loss espo: ",
    )
    assert [part for part in expected if part not in text] == []
    assert "alpha" in text


def test_lengths_that_differ(write: Writer) -> None:
    entropy = made.columns(4)["entropy"]
    entropy[2] = entropy[2][:-1]
    count = len(entropy[2])
    with pytest.raises(ReplayError, match=f"column entropy: 1 rows, first 0_0_2, have {count} values for {count + 1}"):
        load(write(entropy=entropy))


def test_settings_reach_loss_and_actor() -> None:
    wide, plain, bare = build(
        ["wide=espo", "espo", "vanilla"], ["wide:alpha=0.3", "wide:clip_ratio_low=0.1", "espo:" + ALPHA + "=0.2"]
    )
    assert (wide.hyper["alpha"], wide.hyper["clip_ratio_low"]) == (0.3, 0.1)
    assert plain.hyper["alpha"] == 0.2
    assert (bare.name, bare.method) == ("vanilla", None)


ALPHA = "actor_rollout_ref.actor.policy_loss.alpha"


def test_parts_of_the_loss_that_are_left_out_are_told(write: Writer) -> None:
    done = replay(Request(write(), ["max_entropy"]))
    assert "max_entropy: the entropy term (entropy_coeff=0.001) is left out" in done.notes


def test_a_batch_without_gradient(write: Writer) -> None:
    done = replay(Request(write(advantages=like(0)), ["gspo", "espo"]))
    assert done.norms.tolist() == [0, 0]
    assert report.as_data(done)["cosine"] == [[None, None], [None, None]]
    assert report.cosine_cells(done)[1] == ["gspo", "-", "-"]
    assert figure.picture(done).startswith(b"\x89PNG")


@pytest.fixture
def app() -> typer.Typer:
    made_app = typer.Typer()
    made_app.command()(command)
    return made_app


def test_command_writes_table_and_html(write: Writer, tmp_path: Path, app: typer.Typer) -> None:
    out = tmp_path / "deep" / "out.html"
    done = CliRunner().invoke(app, [str(write()), "--loss", "gspo", "--loss", "sspo", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "cosine" in done.output
    page = out.read_text()
    assert "data:image/png;base64," in page
    assert "http" not in page
    assert "<td>1.0000</td>" in page


def test_command_refuses_with_status_two(tmp_path: Path, app: typer.Typer) -> None:
    done = CliRunner().invoke(app, [str(tmp_path / "none.parquet"), "--loss", "gspo"])
    assert done.exit_code == 2
    assert "none.parquet does not exist" in done.output


def test_a_run_is_read_where_it_exported_one_step_and_otherwise_one_has_to_be_named(tmp_path: Path) -> None:
    export = tmp_path / "run" / "token_export"
    (tmp_path / "empty").mkdir()
    made.write(export / "step-00050" / "rank-00000.parquet", 4)
    assert len(load(tmp_path / "run").keys) == 4
    made.write(export / "step-00100" / "rank-00000.parquet", 4)
    with pytest.raises(ReplayError) as caught:
        load(tmp_path / "run")
    assert caught.value.faults == [f"{tmp_path}/run holds 2 steps, name one: {export}/step-00050, {export}/step-00100"]
    with pytest.raises(ReplayError, match=r"a run writes one with \+verl_ext.export.every=N"):
        load(tmp_path / "empty")


def test_a_setting_of_verls_own_loss_needs_no_path() -> None:
    (subject,) = build(["clip_cov"], ["clip_cov:clip_cov_ratio=0.05"])
    assert subject.actor.policy_loss.clip_cov_ratio == 0.05
    with pytest.raises(ReplayError, match="loss_mode"):
        build(["vanilla"], ["vanilla:loss_mode=gspo"])


def test_a_setting_that_the_loss_does_not_have_is_answered_with_those_that_it_has() -> None:
    with pytest.raises(ReplayError) as refused:
        build(["erpo", "espo"], ["erpo:alpha=1", "espo:alpa=1"])
    text = str(refused.value)
    assert "--loss erpo: vanilla has no hyper-parameter alpha, nor has verl's actor such a key; there is: " in text
    assert "--loss espo: espo has no hyper-parameter alpa" in text
    assert "did you mean 'alpha'?" in text


def test_a_batch_without_a_signal_says_so_first(write: Writer, tmp_path: Path) -> None:
    """No advantage: no gradient, nothing clipped, no cosine; and no row of dashes that says so."""
    path = write(advantages=like(0.0))
    app = typer.Typer()
    app.command()(command)
    page = tmp_path / "page.html"
    done = CliRunner().invoke(app, [str(path), "--loss", "espo", "--loss", "grpo", "--out", str(page)])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("no signal: the advantage of every token is 0, ")
    assert "cosine  " not in done.output
    assert not any(line.split()[-1:] == ["-"] for line in done.output.splitlines())
    assert "no signal: the advantage of every token is 0" in page.read_text()
    data = report.as_data(replay(Request(path, ["espo"])))
    assert data["signal"] is False
    assert report.as_data(replay(Request(write(), ["espo"])))["signal"] is True


def test_a_kl_term_is_left_without_a_signal(write: Writer) -> None:
    """TEPO's penalty has a gradient of its own, so that its norm and a cosine are shown."""
    settings = ["tepo:kl_coef=0.1", "tepo:kl_mask=all"]
    path = write(advantages=like(0.0), ref_log_prob=[row - 0.5 for row in made.columns(4)["log_probs"]])
    done = replay(Request(path, ["tepo"], settings))
    assert done.norms.item() > 0
    assert len(report.tables(done)) == 2


def test_weights_of_zero_are_no_signal_either(write: Writer) -> None:
    assert not load(write(rollout_is_weights=like(0.0))).signal


def test_rows_without_an_advantage_are_counted(write: Writer) -> None:
    advantages = made.columns(4)["advantages"]
    advantages[2] = advantages[2] * 0
    assert (
        load(write(advantages=advantages)).notes[-1] == "1 of 4 rows have the advantage 0 and no part in any gradient"
    )
