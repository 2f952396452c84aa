"""Where answers stand: every format on responses as models write them, and what one format takes from no other."""

from __future__ import annotations

import time

import pytest

from verl_ext.rewards.answer_text import ANSWER_FORMATS, answer_of, chosen_format, find_boxes, unboxed, written
from verl_ext.rewards.verifiers import TruthKind, get, grade_many, kind

LONG_S = 60.0

BOXES = [
    ("\\boxed{1} \\boxed{2}", "2", True),
    ("\\boxed{\\boxed{3}}", "3", True),
    ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}", True),
    ("\\boxed{\\left\\{ 1 \\right.}", "\\left\\{ 1 \\right.", True),
    ("\\boxed {4}", "4", True),
    ("\\fbox{9}, not \\mbox{8}", "9", True),
    ("\\boxed7", "7", True),
    ("so $\\boxed 12$.", "12", True),
    ("\\boxed -1/2", "-1/2", True),
    ("$\\boxed\\frac{1}{2}$", "\\frac{1}{2}", True),
    ("\\boxed B.", "B", True),
    ("\\boxed{5}, which stands in \\boxed as asked", "5", True),
    ("\\boxed{5} {in a \\boxedthing{6}}", "5", True),
    ("x\\\\\\boxed{5}", "5", True),
    ("\\\\boxed{5}", None, False),
    ("box{5} fbox{6} boxed", None, False),
    ("\\boxed{1} \\boxed{", None, True),
    ("\\boxed{1 \\boxed{2}", "2", True),
    ("\\boxed{1 {\\boxed{2}", "2", True),
    ("\\boxed{\\boxed{1}", "1", True),
    ("\\boxed{\\boxed{1} \\boxed{", None, True),
    ("no box }", None, False),
    ("", None, False),
]


@pytest.mark.parametrize(("text", "last", "closed"), BOXES)
def test_last_box(text: str, last: str | None, closed: bool) -> None:
    boxes = find_boxes(text)
    assert (boxes.last, boxes.any_closed) == (last, closed)


ANSWER_LINES = [
    ("Answer: 7", "7"),
    ("Step 1: 3\n\n**Answer:** 7", "7"),
    ("**Answer**: $7$.", "7"),
    ("**Final Answer: 7**", "7"),
    ("Answer: **7**", "7"),
    ("# the final answer: 7", "7"),
    ("ANSWER：7", "7"),
    ("> answer : \\(x=1\\)", "x=1"),
    ("Answer: \\[7\\]", "7"),
    ("Answer: $$7$$", "7"),
    ("Answer: `7`", "7"),
    ("\\textbf{Answer: } 7", "7"),
    ("Answer: \\boxed{7}.", "7"),
    ("Answer: $\\boxed{\\frac{1}{2}}$", "\\frac{1}{2}"),
    ("Answer: $1$ and $2$", "$1$ and $2$"),
    ("Answer: 2 * 3 * 4", "2 * 3 * 4"),
    ("Answer:\n\n7", "7"),
    ("Therefore, Answer: 7", "7"),
    ("Answer: 6\nAnswer: 7\nThat was all.", "7"),
    ("Answer: 7\nLet me check the answer: it is right.", "7"),
    ("Answer: 7\nAnswer:", None),
    ("Answer: \\boxed{7", None),
    ("\\boxed{7}", None),
    ("The answer is 7", None),
    ("The answers: 7", None),
]


@pytest.mark.parametrize(("text", "answer"), ANSWER_LINES)
def test_answer_line(text: str, answer: str | None) -> None:
    assert answer_of(text, "7", "answer_line") == answer


NUMBERS = [
    ("it is 7.", "7"),
    ("5 of 8 cost 1,234.50 dollars.", "1,234.50"),
    ("costs $1,200.", "1,200"),
    ("costs -$5", "-5"),
    ("costs \\$-5", "-5"),
    ("x=−5", "−5"),
    ("(-4)", "-4"),
    ("10-3", "3"),
    ("x-3", "3"),
    ("is 3/4 of it", "3/4"),
    ("1,000/3", "1,000/3"),
    ("is \\frac{3}{4}", "\\frac{3}{4}"),
    ("is $-\\dfrac34$", "-\\dfrac34"),
    ("is 1 1/2 and", "1 1/2"),
    ("is $1\\frac{1}{2}$ and", "1\\frac{1}{2}"),
    ("50% of it", "50%"),
    ("2 \\times 10^{3} m", "2 \\times 10^{3}"),
    ("2.5e-3 m", "2.5e-3"),
    ("3{,}000", "3{,}000"),
    ("1, 2 and .5", ".5"),
    ("1,2,3", "3"),
    ("**18** apples, x_2, B12", "18"),
    ("\\boxed{42}", "42"),
    ("#### 72", "72"),
    ("#### 7\n#### $72\nIt took 3 steps.", "72"),
    ("#### 72 apples.\nIt took 3 steps.", "72"),
    ("#### 4. Check 5\nIt is 9", "9"),
    ("none", None),
]


@pytest.mark.parametrize(("text", "answer"), NUMBERS)
def test_last_number(text: str, answer: str | None) -> None:
    assert answer_of(text, "7", "last_number") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{6}\nAnswer: 7\n8", "6"),
        ("\\boxed{6", None),
        ("\\boxed{}\nAnswer: 7", None),
        ("Answer: x+1\nwith 8", "x+1"),
        ("Answer:", None),
        ("it is 8", "8"),
        ("no", None),
    ],
)
def test_auto_takes_the_first_form_that_is_there(text: str, answer: str | None) -> None:
    assert answer_of(text, "7", "auto") == answer


@pytest.mark.parametrize("answer_format", ANSWER_FORMATS)
@pytest.mark.parametrize("answer", ["7", "-1,200", "0.5", "3/4"])
def test_what_is_written_in_a_format_is_found_in_it(answer_format: str, answer: str) -> None:
    text = f"1. First 5\n\n{written(answer, answer_format)}"  # type: ignore[arg-type]
    assert answer_of(text, answer, answer_format) == answer  # type: ignore[arg-type]


TRUTHS = [
    ("\\[\\boxed{2018}\\]", "2018"),
    ("$\\boxed{n=(2k)^2}$", "n=(2k)^2"),
    ("\\boxed{a=4}, \\text{for all } n", "a=4"),
    ("the least number is \\(\\boxed{12}\\).", "12"),
    ("\\boxed{1} or rather \\fbox{2}", "2"),
    ("\\boxed {\\boxed{\\frac{1}{2}}}", "\\frac{1}{2}"),
    ("$\\boxed 5$", "5"),
    ("\\boxed5", "5"),
    ("\\boxed{}", "\\boxed{}"),
    ("\\boxed{7", "\\boxed{7"),
    ("12", "12"),
    ("a box of 12", "a box of 12"),
]


@pytest.mark.parametrize(("truth", "inside"), TRUTHS)
def test_a_ground_truth_is_what_its_last_box_holds(truth: str, inside: str) -> None:
    assert unboxed(truth) == inside


def test_verifiers_open_the_box_of_a_ground_truth() -> None:
    truths = [truth for truth, inside in TRUTHS if truth != inside]
    for name in ("math_verify", "exact"):
        pairs = [(f"\\boxed{{{unboxed(truth)}}}", truth) for truth in truths]
        assert {graded.outcome for graded in grade_many(get(name), pairs, timeout_s=LONG_S)} == {"correct"}
        assert get(name).grade("\\boxed{8}", "\\[\\boxed{7}\\]", LONG_S).outcome == "wrong"
    assert kind("the least number is \\(\\boxed{12}\\).", LONG_S) == TruthKind("mathematics")


def test_the_format_is_one_of_those_given_and_no_other() -> None:
    assert chosen_format("auto", "auto") == "auto"
    with pytest.raises(ValueError, match="'box' is not known: choose boxed, answer_line, last_number, auto"):
        chosen_format("box", None)
    with pytest.raises(ValueError, match="leave the first out"):
        chosen_format("boxed", "answer_line")


HOSTILE = [
    "\\boxed{", "\\boxed ", "\\\\boxed{a} ", "\\boxed\\a{", "\\fbox{}", "box", "Answer:\n", "Answer ", "\n ", "#### 1 ",
    "1,", "1 ", "1/", "-$", "\\frac{1}", "9" * 50, "**", "the my ", "1 \\times 10^", "\\text{", " ", "1.", "\\boxed7 ",
]  # fmt: skip


@pytest.mark.parametrize("answer_format", ANSWER_FORMATS)
@pytest.mark.parametrize("part", HOSTILE)
def test_a_long_text_is_searched_in_linear_time(part: str, answer_format: str) -> None:
    start = time.process_time()
    for text in (part * (1_000_000 // len(part)), "Answer: " + part * (1_000_000 // len(part)) + "x"):
        answer_of(text, "7", answer_format)  # type: ignore[arg-type]
    assert time.process_time() - start < 2.0
