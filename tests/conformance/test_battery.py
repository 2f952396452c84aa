"""The parts of the battery: batches and their files, cases, exemptions, transfers, declarations, options."""

import doctest
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.specimens import CorrectEstimator, CorrectLoss
from verl_ext.conformance import batches, declared, estimators, exemptions, tracing
from verl_ext.conformance.batches import MASK, Batch, from_lists, in_words, to_lists
from verl_ext.conformance.battery import examine, verdict
from verl_ext.conformance.cases import EXTREME, MAX_TOKENS, WIDE, Case, Recipe, decode, plain_batch
from verl_ext.conformance.declared import Declaration
from verl_ext.conformance.estimators import PROMPT, REWARDS, Estimator, Rows
from verl_ext.conformance.exemptions import Exemptions, parse
from verl_ext.conformance.options import chosen_variants, variants
from verl_ext.conformance.properties import Property, close, expect
from verl_ext.conformance.registry import KINDS, imported, subjects
from verl_ext.conformance.subjects import Loss
from verl_ext.conformance.tracing import TransferLog

ROW_BYTES = 1 + MAX_TOKENS * 10
row_bytes = st.lists(st.binary(min_size=ROW_BYTES, max_size=ROW_BYTES), min_size=1, max_size=8)


@pytest.mark.parametrize("module", [declared, exemptions, tracing, batches])
def test_examples_in_docstrings(module: Any) -> None:
    with imported(()):  # one of them declares a method
        assert doctest.testmod(module).failed == 0


@settings(max_examples=50, deadline=None)
@given(row_bytes, st.integers(1, MAX_TOKENS), st.sampled_from([WIDE, EXTREME]), st.booleans())
def test_batches_are_what_a_model_could_give(
    rows: list[bytes], width: int, drifts: tuple[float, ...], outcome: bool
) -> None:
    batch = decode(rows, width, drifts, outcome)
    mask = batch.mask
    assert mask.any()
    assert (batch["log_prob"] <= 0).all()
    assert (batch["old_log_prob"] <= 0).all()
    assert (batch["old_entropy"] >= 0).all()
    assert (batch["old_entropy"] <= math.log(batches.VOCAB)).all()
    assert not outcome or (batch["advantages"] == batch["advantages"][:, :1]).all()
    assert ((batch["segment_ids"] >= 0) == mask).all()
    assert ((batch["group_ids"] >= 0) == mask).all()
    for ids, valid in zip(batch["segment_ids"], mask, strict=True):
        steps = ids[valid].diff()
        assert ((steps == 0) | (steps == 1)).all()
        assert not len(ids[valid]) or ids[valid][0] == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(min_size=20, max_size=20), min_size=1, max_size=8), st.booleans(), st.booleans())
def test_batches_of_estimators(rows: list[bytes], equal: bool, singletons: bool) -> None:
    batch = estimators.decode(rows, 4, Rows(equal_rewards=equal, singletons=singletons))
    assert batch.mask.sum() >= 2  # verl's whitening raises on fewer
    prompts, rewards = batch[PROMPT][:, 0].tolist(), batch[REWARDS].sum(dim=-1).tolist()
    assert not singletons or len(set(prompts)) == len(prompts)
    assert not equal or len(set(zip(prompts, rewards, strict=True))) == len(set(prompts))


def test_the_shortest_bytes_are_the_plainest_batch() -> None:
    batch = plain_batch()
    assert batch.mask.all()
    assert torch.equal(batch["log_prob"], batch["old_log_prob"])
    assert (batch["advantages"] == 1).all()


@settings(max_examples=50, deadline=None)
@given(row_bytes, st.integers(1, MAX_TOKENS))
def test_a_case_survives_its_file_exactly(rows: list[bytes], width: int) -> None:
    case = Case({"clip": "fixed", "cuts": [0.5]}, "token-sum", {"advantages": "row"}, decode(rows, width, WIDE, False))
    again = Case.from_json(json.loads(json.dumps(case.to_json())))
    assert again.options == case.options
    assert again.batch.tensors.keys() == case.batch.tensors.keys()
    for name, tensor in case.batch.tensors.items():
        assert again.batch[name].dtype == tensor.dtype
        assert torch.equal(again.batch[name], tensor)


def test_numbers_that_json_does_not_have() -> None:
    odd = torch.tensor([[math.nan, math.inf, -math.inf, 0.1]])
    lists = to_lists(odd)
    assert lists == [["nan", "inf", "-inf", 0.1]]
    assert torch.equal(from_lists(lists).nan_to_num(7), odd.nan_to_num(7))
    assert in_words(torch.tensor([[-0.0, 0.5], [1e30, math.nan]])) == "[[0, 0.5], [1e+30, nan]]"


def test_columns_cut_out_renumber_the_segments() -> None:
    ids = torch.tensor([[0, 1, 2, -1]])
    batch = Batch({MASK: ids >= 0, "segment_ids": ids})
    assert batch.columns([0, 2, 3])["segment_ids"].tolist() == [[0, 1, -1]]


def test_smaller_cases_keep_a_valid_token() -> None:
    mask = torch.tensor([[True, False], [False, False]])
    zeros = torch.zeros(2, 2)
    case = Case({}, "token-sum", {}, Batch({MASK: mask, "log_prob": zeros, "old_log_prob": zeros}))
    shapes = [tuple(smaller.batch.mask.shape) for smaller in case.smaller()]
    assert shapes == [(1, 2), (2, 1)]  # without row 1, without column 1


@pytest.mark.parametrize(
    ("key", "facts", "excluded"),
    [
        ("sign", {}, True),
        ("padding", {}, False),
        ("sign[clip=ppo]", {"clip": "ppo"}, True),
        ("sign[clip=ppo]", {"clip": "none"}, False),
        ("sign[clip=ppo|none]", {"clip": "none"}, True),
        ("sign[clip=ppo,ratio=token]", {"clip": "ppo", "ratio": "token"}, True),
        ("sign[clip=ppo,ratio=token]", {"clip": "ppo", "ratio": "prefix"}, False),
        ("sign[flag=True]", {"flag": True}, True),
        ("*[flag=True]", {"flag": True}, True),
        ("sign:alive", {}, False),
    ],
)
def test_exemptions(key: str, facts: dict[str, Any], excluded: bool) -> None:
    exemption = Exemptions({key: "reason"}, "sign")
    assert exemption.excludes(facts) == excluded
    assert exemption.all_cases == (key == "sign")
    assert list(exemption.reasons.values()) == ["reason"] * (key != "padding")


def test_an_exemption_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"'sign\(x\)' is not"):
        parse("sign(x)")


def test_an_exempt_cell_is_not_run_and_an_exempt_option_is_left_out() -> None:
    asked = []
    prop = Property("sign", "sign", lambda loss, case: asked.append(case.variant), Recipe())
    subject = Loss("specimen", CorrectLoss())
    subject.defaults, subject.variants = {"beta": 1.0}, [{}, {"beta": 2.0}]
    subject.call = lambda *_: (torch.zeros(()), {})  # type: ignore[method-assign]
    subject.exempt = {"sign": "no sign"}
    assert examine(subject, prop).status == "n/a"
    assert not asked
    subject.exempt = {"sign[beta=1.0]": "only of another beta"}
    cell = examine(subject, prop)
    assert (cell.status, dict(cell.left_out)) == ("ok", {"beta=1.0": "only of another beta"})
    assert asked
    assert all(variant == {"beta": 2.0} for variant in asked)


def test_a_failure_is_shrunk_and_repeats() -> None:
    def check(loss: Any, case: Case) -> None:
        expect(not (case.batch["advantages"] * case.batch.mask < 0).any(), "a negative advantage")

    prop = Property("negative", "negative", check, Recipe())
    subject = Loss("specimen", CorrectLoss())
    cells = [examine(subject, prop, seed=3) for _ in range(2)]
    assert [cell.message for cell in cells] == ["a negative advantage"] * 2
    assert cells[0].case.to_json() == cells[1].case.to_json()
    assert cells[0].case.batch.mask.tolist() == [[True]]
    assert str(verdict(subject, prop, cells[0].case)) == "a negative advantage"


def test_trimming_keeps_out_of_what_is_exempt() -> None:
    def check(estimator: Any, case: Case) -> None:
        raise IndexError

    subject = Estimator("specimen", CorrectEstimator())
    subject.exempt = {"any[row_alone=True]": "needs two rows"}
    cell = examine(subject, Property("any", "any", check, Rows()))
    assert cell.status == "fail"
    assert not cell.case.facts["row_alone"]


def test_the_seed_alone_decides_on_the_cases() -> None:
    seen: list[str] = []
    prop = Property("none", "none", lambda _, case: seen.append(json.dumps(case.to_json())), Recipe())
    runs = []
    for seed in (1, 1, 2):
        seen.clear()
        examine(Loss("specimen", CorrectLoss()), prop, seed=seed)
        runs.append(list(seen))
    assert len(runs[0]) >= 30
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_an_exception_of_the_loss_is_a_failure() -> None:
    def check(loss: Any, case: Case) -> None:
        raise IndexError("no such column")

    cell = examine(Loss("specimen", CorrectLoss()), Property("index", "index", check, Recipe()))
    assert cell.message == "it raises IndexError: no such column"


def test_a_loss_that_never_runs_says_why() -> None:
    def loss(**_: Any) -> None:
        raise RuntimeError("no such kernel\nand more")

    assert Loss("specimen", loss).skip == "fails with every loss_agg_mode: RuntimeError: no such kernel"


def test_variants_are_the_combinations_that_the_configuration_allows() -> None:
    def build(options: Any) -> None:
        if options.get("cuts") and options.get("mode") != "cut":
            raise ValueError("cuts need mode=cut")
        if options.get("mode") == "cut" and not options.get("cuts"):
            raise ValueError("mode=cut needs cuts")

    found = variants({"mode": ("plain", "cut"), "cuts": ([], [1.0]), "flag": (False, True)}, build)
    assert found == [{}, {"flag": True}, {"mode": "cut", "cuts": [1.0]}, {"mode": "cut", "cuts": [1.0], "flag": True}]
    assert {"mode": "cut", "cuts": [1.0]} in chosen_variants(found)


def test_options_of_our_losses_come_from_their_configuration() -> None:
    (espo,) = subjects("loss", ["espo"])
    tried = {(name, str(value)) for variant in espo.variants for name, value in variant.items()}
    assert {
        ("grouping", "threshold"),
        ("grouping", "sequence"),
        ("grouping", "token"),
        ("token_ratio", "old"),
        ("clip", "fixed"),
    } <= tried
    covered = {item for variant in chosen_variants(espo.variants) for item in map(str, variant.items())}
    assert covered == {item for variant in espo.variants for item in map(str, variant.items())}


def test_a_declaration_reaches_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        declared._LOSSES, "specimen", Declaration(actor={"clip_ratio": 0.3}, options={"dro_beta": (2.0,)})
    )
    config = Loss("specimen", CorrectLoss()).config({}, "token-sum")
    assert (config.clip_ratio, config.policy_loss.dro_beta, config.loss_agg_mode) == (0.3, 2.0, "token-sum")


def test_closeness() -> None:
    one = torch.tensor([1.0])
    assert close(one, one + 5e-5, 0.0)  # one part in ten thousand
    assert not close(one, one + 2e-4, 0.0)
    assert close(torch.zeros(1), torch.tensor([1e-4]), 10.0)  # a sum of terms of 10 that cancel
    assert not close(torch.tensor([math.nan]), one, 1.0)
    assert not close(torch.tensor([math.inf]), torch.tensor([-math.inf]), 1.0)


MASKS = torch.tensor([True, False, True])
VALUES = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)


@pytest.mark.parametrize(
    ("count", "act"),
    [
        (0, lambda: VALUES.detach().sum() + 1),
        (0, lambda: VALUES.masked_fill(MASKS, 0)),
        (0, lambda: VALUES.to(torch.float64)),
        (0, lambda: VALUES.detach().clone().__setitem__(MASKS, 0.0)),  # masked_fill in the end
        (0, lambda: VALUES[torch.tensor([0, 1])]),
        (0, lambda: VALUES.repeat_interleave(torch.tensor([1, 2, 1]), output_size=4)),
        (1, lambda: VALUES.repeat_interleave(torch.tensor([1, 2, 1]))),
        (1, lambda: VALUES.sum().item()),
        (1, lambda: float(VALUES.detach().sum())),
        (1, lambda: int(MASKS.sum())),
        (1, lambda: bool(MASKS.any())),
        (1, lambda: VALUES.detach().tolist()),
        (1, lambda: VALUES.detach().cpu()),
        (1, lambda: VALUES.detach().numpy()),
        (1, lambda: np.asarray(VALUES.detach())),
        (1, lambda: VALUES.detach().to("cpu")),
        (1, lambda: MASKS.nonzero()),
        (1, lambda: torch.where(MASKS)),
        (1, lambda: VALUES[MASKS]),
        (1, lambda: VALUES.masked_select(MASKS)),
        (1, lambda: VALUES.detach().unique()),
        (1, lambda: torch.equal(MASKS, MASKS)),
        (1, lambda: VALUES.detach().clone().__setitem__(MASKS, torch.zeros(2))),
        (2, lambda: [value.item() for value in VALUES[:2]]),
    ],
)
def test_transfers_are_counted(count: int, act: Any) -> None:
    with TransferLog() as log:
        act()
    assert len(log.seen) == count
    assert all("test_battery.py" in text for text in log.seen)


def test_tensors_are_as_before_after_counting() -> None:
    before = [getattr(torch.Tensor, name) for name in ("tolist", "cpu", "numpy", "to")]
    with pytest.raises(KeyError), TransferLog():
        raise KeyError
    assert before == [getattr(torch.Tensor, name) for name in ("tolist", "cpu", "numpy", "to")]


def test_columns_are_those_of_the_issue() -> None:
    assert len(KINDS["loss"].columns) == 17
    assert list(KINDS["estimator"].columns)[:4] == ["group_order", "zero_spread", "singleton", "padding_rows"]
