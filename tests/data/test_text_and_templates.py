"""Forms of a text, the hash of a set, and templates put on and taken off."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.sources import DAPO_AFTER, DAPO_BEFORE
from verl_ext.data.templates import TEMPLATES, Baked, UnknownTemplateError, strip
from verl_ext.data.text import canonical, content_hash, key, normalised, words

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."


def test_the_hash_of_a_set_is_what_its_definition_says() -> None:
    # By hand: SHA-256 of "problem NUL answer" for each row, sorted, one a line, hashed again.
    rows = [hashlib.sha256(text).hexdigest() for text in (b"What is 1+1?\x002", b"b\x003")]
    expected = hashlib.sha256("".join(f"{row}\n" for row in sorted(rows)).encode()).hexdigest()
    assert content_hash([("b", "3"), (" What is\n1+1? ", "2")]) == expected
    assert content_hash([("What is 1+1?", "2")]) != content_hash([("What is 1+1", "?2")])
    assert key("b", "3") == rows[1][:12]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.text(), st.text()), max_size=6), st.randoms())
def test_the_hash_of_a_set_does_not_depend_on_order_or_spacing(rows: list[tuple[str, str]], random) -> None:
    other = [(f" {problem}\n", answer) for problem, answer in rows]
    random.shuffle(other)
    assert content_hash(other) == content_hash(rows)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (r"Find  \(x\) .", "find $x$", True),
        (r"$\left( a,\, b \right)$", "(a,b)", True),
        (r"\dfrac{1}{2}", r"\frac12", True),
        (r"$x\le 5$", r"$x \leq 5$", True),
        ("Ｆind", "find", True),
        (r"$2n-1$", r"$2n+1$", False),
        (r"$\leq$", r"$\geq$", False),
        (r"$x^2$", r"$x_2$", False),
        (r"\left", r"\leftarrow", False),
    ],
)
def test_normalised_forgets_the_look_and_keeps_the_meaning(one: str, other: str, equal: bool) -> None:
    assert (normalised(one) == normalised(other)) is equal


def test_canonical_and_words() -> None:
    assert canonical("e\u0301\t a") == "é a"
    assert words(r"Let $x_{12}=\frac{3}{4}$ 已知 a") == ["let", "x", "12", "frac", "3", "4", "已", "知", "a"]


@pytest.mark.parametrize("name", [name for name, template in TEMPLATES.items() if not template.solved])
def test_a_template_that_we_write_comes_off_again(name: str) -> None:
    problem = "What is {x} + \\boxed{1}?"
    messages = TEMPLATES[name].apply(problem)
    assert "".join(message["content"] for message in messages).count(problem) == 1
    assert strip(messages)[0] == problem
    assert len(TEMPLATES[name].sha256) == 64


def test_templates_are_what_the_papers_use() -> None:
    assert TEMPLATES["qwen_math"].apply("P") == [
        {"role": "system", "content": BOXED},
        {"role": "user", "content": "P"},
    ]
    assert TEMPLATES["boxed"].apply("P") == [{"role": "user", "content": f"P\n{BOXED}"}]
    assert TEMPLATES["plain"].apply("P") == TEMPLATES["demo"].apply("P") == [{"role": "user", "content": "P"}]
    hashes = {name: template.sha256 for name, template in TEMPLATES.items()}
    assert hashes["plain"] == hashes["demo"]
    assert hashes["boxed"] == hashes["sft"]
    assert len(set(hashes.values())) == len(hashes) - 2
    text = '[["user", "{problem}"]]'
    assert hashes["plain"] == hashlib.sha256(text.encode()).hexdigest()


CHINESE = (
    "\n让我们一步一步地思考。请以{}Answer: \\boxed{{<final_answer>}}{}的格式输出最终答案。如果是选择题，请按顺序输出"
    "正确的选项，不带任何标点或空格。对于其他类型的问题，请只输出最终答案的数值。"
)


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        (f"{DAPO_BEFORE}P q{DAPO_AFTER}", ["dapo_answer"]),
        ("P q" + CHINESE.format('"', '"'), ["dapo_chinese"]),
        ("P q" + CHINESE.format("“", "”") + CHINESE.format('"', '"'), ["dapo_chinese", "dapo_chinese"]),
        (f"P q {BOXED}", ["boxed"]),
        ("P q\nLet's think step by step and output the final answer within \\boxed{}.", ["boxed"]),
        (
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nP q\n"
            f"{BOXED}<|im_end|>\n<|im_start|>assistant\n",
            ["chatml", "boxed"],
        ),
        ("P q", []),
        (f"{DAPO_BEFORE}P q", None),
    ],
)
def test_templates_in_files_are_recognised(text: str, layers: list[str] | None) -> None:
    problem, found = strip([{"role": "user", "content": text}])
    # Half a template is none.
    assert (problem, found) == (("P q", layers) if layers is not None else (text, []))


def test_further_templates_and_unknown_messages() -> None:
    user = {"role": "user", "content": "Q: P q A:"}
    assert strip([user], [Baked("mine", "Q: ", " A:")]) == ("P q", ["mine"])
    assert strip([{"role": "system", "content": "You are a helpful assistant."}, user])[1] == ["system"]
    for messages in (
        [{"role": "system", "content": "Answer in French."}, user],
        [user, user],
        [user, {"role": "assistant", "content": "6"}],
    ):
        with pytest.raises(UnknownTemplateError):
            strip(messages)
