"""`verl-ext losses`: the table of everything registered."""

from __future__ import annotations

import io
import json

from rich.console import Console
from typer.testing import CliRunner

from verl_ext import catalogue, plugin
from verl_ext.cli import app


def test_every_method_is_there_with_everything_that_a_user_sets() -> None:
    found = json.loads(CliRunner().invoke(app, ["losses", "--json"]).stdout)
    assert [row["name"] for row in found["losses"]] == list(plugin.POLICY_LOSSES)
    assert [row["name"] for row in found["estimators"]] == list(plugin.ESTIMATORS)
    sspo = next(row for row in found["losses"] if row["name"] == "sspo")
    assert sspo["arxiv"] == "2511.04256"
    assert sspo["needs"] == ["segment_ids", "old_entropy"]
    assert sspo["aggregations"] == ["seq-mean-token-mean", "token-mean"]
    assert sspo["hyper_parameters"]["gamma"] == {"default": 1.75, "range": "a finite number >= 1"}
    assert sspo["config"] == "verl_ext.config.SSPOLossConfig"
    erpo = next(row for row in found["estimators"] if row["name"] == "erpo")
    assert erpo["where"] == "algorithm.erpo"
    assert erpo["hyper_parameters"]["num_buckets"] == {"default": 10, "range": "a whole number >= 1"}


def test_one_method_is_shown_alone_and_a_misspelt_one_is_told() -> None:
    found = catalogue.choose(["espo", "gspo"])
    assert [row["name"] for kind in catalogue.KINDS for row in found[kind]] == ["espo", "espo"]
    assert found["other"] == [{"kind": "loss", "names": ["gspo"]}]
    done = CliRunner().invoke(app, ["losses", "esppo", "--json"])
    assert done.exit_code == 2
    assert "'espo'" in done.output


def test_what_is_not_ours_is_named_too() -> None:
    losses, estimators = catalogue.entries()["other"]
    assert "gspo" in losses["names"]
    assert "grpo" in estimators["names"]
    assert not set(losses["names"]) & set(plugin.POLICY_LOSSES)


def test_the_table_names_each_method_and_key() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    catalogue.show(console)
    text = console.export_text()
    for method in [*plugin.POLICY_LOSSES.values(), *plugin.ESTIMATORS.values()]:
        assert f"arXiv {method.arxiv}" in text
        for key in method.config_type().names():
            assert f"{key} = " in text
    assert "loss_agg_mode: seq-mean-token-mean" in text
    assert "\nlosses of verl's own: " in text
    assert "\nestimators of verl's own: " in text
