"""The demo's problems: right answers, disjoint splits, determinism, the careless pupil, the files."""

from __future__ import annotations

import ast
import itertools
import operator
import random
from pathlib import Path

import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_ext.toy import assets, pretrain, task
from verl_ext.toy.assets import AssetSettings, prepare_settings
from verl_ext.toy.pretrain import Habits, PretrainSettings, careless_solution
from verl_ext.toy.task import SEPARATOR, Order, Problem, TaskSettings, problems, stream, write

_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.USub: operator.neg}
FLAWLESS = Habits(left=0.0, slip=0.0, early=0.0)


def independent_value(text: str) -> int:
    """Value of an expression by Python's own grammar, which shares no code with the task."""

    def walk(node: ast.AST) -> int:
        if isinstance(node, ast.BinOp):
            return _OPERATIONS[type(node.op)](walk(node.left), walk(node.right))
        if isinstance(node, ast.UnaryOp):
            return _OPERATIONS[type(node.op)](walk(node.operand))
        assert isinstance(node, ast.Constant)
        return node.value

    return walk(ast.parse(text, mode="eval").body)


any_problem = st.integers(2, 5).flatmap(
    lambda count: st.builds(
        Problem,
        st.tuples(*[st.integers(1, 9)] * count),
        st.tuples(*[st.sampled_from("+-*")] * (count - 1)),
    )
)


@given(any_problem)
def test_answer_agrees_with_an_independent_evaluator(problem: Problem) -> None:
    assert int(problem.answer) == independent_value(problem.prompt.removesuffix("=?"))


@given(any_problem)
def test_every_line_of_both_orders_is_true(problem: Problem) -> None:
    for order in Order:
        for step in problem.evaluate(order):
            left, right = str(step).split("=")
            assert independent_value(left) == int(right)


def test_left_order_by_hand() -> None:
    # 3+4*2-5 from left to right: 3+4=7, 7*2=14, 14-5=9; by precedence: 4*2=8, 3+8=11, 11-5=6.
    problem = Problem((3, 4, 2, 5), ("+", "*", "-"))
    assert write(problem.evaluate(Order.LEFT)) == "3+4=7\n\n7*2=14\n\n14-5=9\n\n\\boxed{9}"
    assert problem.solution() == "4*2=8\n\n3+8=11\n\n11-5=6\n\n\\boxed{6}"
    assert not problem.easy


def test_solutions_have_segments_and_are_short() -> None:
    for problem in itertools.islice(stream("train", 3), 300):
        assert problem.solution().count(SEPARATOR) >= 2
        assert len(problem.prompt) <= 40
        assert len(problem.solution().encode()) <= 60


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_splits_never_share_a_prompt(train_seed: int, validation_seed: int) -> None:
    train = {problem.prompt for problem in itertools.islice(stream("train", train_seed), 60)}
    validation = {problem.prompt for problem in itertools.islice(stream("validation", validation_seed), 60)}
    assert not train & validation


def test_split_is_a_function_of_the_prompt_alone() -> None:
    # `printf "1+2*3=?" | sha256sum` starts with be00f5e3bbe3237f, which is 3 modulo 5; for 4+2*3=? it is
    # c4ab3f56fb0b5db3, 0 modulo 5; for 5+6*7=? b66f5dc75ab25a2c, 2 modulo 5. Bucket 0 is validation.
    # A change of the rule would leak validation problems into training of cached models.
    assert [int(digits, 16) % 5 for digits in ("be00f5e3bbe3237f", "c4ab3f56fb0b5db3")] == [3, 0]
    for digits, split in {(1, 2, 3): "train", (4, 2, 3): "validation", (5, 6, 7): "train"}.items():
        assert Problem(digits, ("+", "*")).split == split


def test_generator_is_deterministic_and_seeds_differ() -> None:
    assert problems("train", 50, seed=7) == problems("train", 50, seed=7)
    assert problems("train", 50, seed=7) != problems("train", 50, seed=8)


def test_problems_are_distinct_and_easy_ones_have_their_share() -> None:
    chosen = problems("validation", 512, seed=0)
    assert len({problem.prompt for problem in chosen}) == 512
    drawn = list(itertools.islice(stream("validation", 0), 1000))
    # Easy problems are drawn with probability 0.25; five standard deviations of 1,000 draws are 0.068.
    assert abs(sum(problem.easy for problem in drawn) / 1000 - 0.25) < 0.068
    # There are more different ones of them, so that dropping repeated prompts raises the share, to the page's 32%.
    assert sum(problem.easy for problem in chosen) == 165


def test_bounds_hold_on_both_orders() -> None:
    narrow = TaskSettings(lowest=-2, highest=20)
    for problem in itertools.islice(stream("train", 0, narrow), 200):
        values = [step.value for order in Order for step in problem.evaluate(order)]
        assert min(values) >= -2
        assert max(values) <= 20


def test_faulty_settings_name_all_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"operands.*lowest.*easy_share"):
        TaskSettings(operands=(2,), lowest=1, easy_share=2.0)
    with pytest.raises(ValueError, match="'test'"):
        next(stream("test", 0))  # type: ignore[arg-type]
    monkeypatch.setattr(task, "stream", lambda *_: itertools.repeat(Problem((1, 2, 3), ("+", "*"))))
    with pytest.raises(ValueError, match="only 1 different train prompts found for the 2 asked"):
        problems("train", 2, 0)


@given(any_problem, st.integers())
def test_pupil_without_habits_is_right(problem: Problem, seed: int) -> None:
    assert careless_solution(problem, random.Random(seed), FLAWLESS) == problem.solution()


def test_each_habit_makes_its_mistake() -> None:
    problem = Problem((3, 4, 2), ("+", "*"))
    rng = random.Random(0)
    assert careless_solution(problem, rng, Habits(1.0, 0.0, 0.0)) == "3+4=7\n\n7*2=14\n\n\\boxed{14}"
    assert careless_solution(problem, rng, Habits(0.0, 0.0, 1.0)) == "4*2=8\n\n\\boxed{8}"
    # A slip in every line: 8 becomes 7 or 9, and 3+7=10 or 3+9=12 is off by one again.
    slips = {careless_solution(problem, rng, Habits(0.0, 1.0, 0.0)).split("{")[1] for _ in range(100)}
    assert slips == {"9}", "11}", "13}"}
    with pytest.raises(ValueError, match=r"left=1\.5, early=-1"):
        Habits(left=1.5, early=-1)


@pytest.fixture
def tiny() -> AssetSettings:
    return AssetSettings(
        model="tiny_dense",
        train_problems=40,
        validation_problems=20,
        pretrain=PretrainSettings(steps=2, batch_size=4),
    )


def test_files_follow_verl_schema_and_control_differs_only_in_pay(tmp_path: Path, tiny: AssetSettings) -> None:
    built = prepare_settings(tiny, tmp_path)
    train, validation, control = (
        pyarrow.parquet.read_table(path).to_pylist()
        for path in (built.train_parquet, built.val_parquet, built.control_parquet)
    )
    assert (len(train), len(validation)) == (40, 20)
    first = train[0]
    assert set(first) == {"data_source", "prompt", "ability", "reward_model", "extra_info"}
    assert first["prompt"][0]["role"] == "user"
    question = first["prompt"][0]["content"].removesuffix("=?")
    assert first["reward_model"] == {"style": "rule", "ground_truth": str(independent_value(question))}
    assert first["extra_info"] == {"index": 0, "split": "train"}
    assert validation[3]["extra_info"] == {"index": 3, "split": "validation"}
    for honest, paid in zip(train, control, strict=True):
        extra = {**honest["extra_info"], "control_rate": assets.CONTROL_RATE, "control_salt": 0}
        assert paid == {**honest, "extra_info": extra}


def test_cache_is_found_again_and_keyed_by_settings_and_code(
    tmp_path: Path, tiny: AssetSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = prepare_settings(tiny, tmp_path)

    def must_not_build(*_: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(assets, "_build", must_not_build)
    assert prepare_settings(tiny, tmp_path) == built
    with pytest.raises(AssertionError, match="built again"):
        prepare_settings(AssetSettings(model="tiny_dense", seed=1), tmp_path)
    monkeypatch.setattr(assets, "CODE_VERSION", assets.CODE_VERSION + 1)
    with pytest.raises(AssertionError, match="built again"):
        prepare_settings(tiny, tmp_path)


def test_interrupted_build_leaves_nothing_that_looks_finished(
    tmp_path: Path, tiny: AssetSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(assets, "pretrain", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare_settings(tiny, tmp_path)
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
    built = prepare_settings(tiny, tmp_path)
    assert (built.model_dir / "model.safetensors").exists()
    assert list(tmp_path.glob(".*.part-*")) == []


def test_pretraining_uses_train_prompts_only() -> None:
    source = itertools.islice(pretrain.examples(0, Habits()), 200)
    validation = {problem.prompt for problem in problems("validation", 512, 0)}
    assert not {prompt for prompt, _ in source} & validation
