r"""Prompt templates: those which we write, and those which are found in files and taken off again.

Every template that we write asks for ``\boxed{}``, because that is where `verl_ext.rewards` looks for the answer;
`plain` and `demo` ask for nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

PLACE = "{problem}"
_BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
_DAPO_HEAD = "Solve the following math problem step by step. The last line of your response should be of the form "
_DAPO_BOXED = (
    _DAPO_HEAD + "\\boxed{Answer} where Answer is the answer to the problem.\n\n",
    "\n\nRemember to put your answer in \\boxed{...} format on its own line.",
)
_DAPO_ANSWER = (
    _DAPO_HEAD + "Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n",
    '\n\nRemember to put your answer on its own line after "Answer:".',
)
_DAPO_CHINESE = (
    "\n让我们一步一步地思考。请以{open}Answer: \\boxed{{<final_answer>}}{close}的格式输出最终答案。"
    "如果是选择题，请按顺序输出正确的选项，不带任何标点或空格。对于其他类型的问题，请只输出最终答案的数值。"
)
_R1 = (
    "A conversation between User and Assistant. The User asks a question, and the Assistant solves it. The Assistant "
    "first thinks about the reasoning process in the mind and then provides the User with the answer. The reasoning "
    "process is enclosed within <think> </think> and answer is enclosed within <answer> </answer> tags, respectively, "
    "i.e., <think> reasoning process here </think> <answer> answer here </answer>."
)
_SYSTEMS = ("You are a helpful assistant.", _BOXED, _R1)
"""System messages that say nothing of the problem."""


@dataclass(frozen=True)
class Template:
    """Messages around a problem.

    Attributes:
        name: as in ``--template``.
        messages: (role, content); the problem's place is written ``{problem}``.
        origin: who uses it.
        solved: whether the problem's solution follows, as the assistant's turn: for supervised training.
    """

    name: str
    messages: tuple[tuple[str, str], ...]
    origin: str
    solved: bool = False

    def apply(self, problem: str, solution: str = "") -> list[dict[str, str]]:
        r"""The messages of a problem, in verl's schema.

        Args:
            problem: without any template.
            solution: of the assistant's turn, where the template has one.

        Example:
            >>> TEMPLATES["boxed"].apply("1+1=?")[0]["content"].splitlines()[0]
            '1+1=?'
            >>> TEMPLATES["sft"].apply("1+1=?", r"It is $\boxed{2}$.")[1]
            {'role': 'assistant', 'content': 'It is $\\boxed{2}$.'}
        """
        prompt = [{"role": role, "content": content.replace(PLACE, problem)} for role, content in self.messages]
        return [*prompt, {"role": "assistant", "content": solution}] if self.solved else prompt

    @property
    def sha256(self) -> str:
        """Hash of the prompt's messages; the name has no part in it."""
        return hashlib.sha256(json.dumps(self.messages, ensure_ascii=False).encode()).hexdigest()


_USER = (("user", PLACE),)
_USER_BOXED = (("user", f"{PLACE}\n{_BOXED}"),)
TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        Template("qwen_math", (("system", _BOXED), *_USER), "Qwen2.5-Math; Dr. GRPO (arXiv 2503.20783), SSPO"),
        Template("boxed", _USER_BOXED, "the plain boxed instruction"),
        Template(
            "dapo", (("user", PLACE.join(_DAPO_BOXED)),), "DAPO (arXiv 2503.14476), in the form that asks for a box"
        ),
        Template(
            "r1",
            (("system", _R1), ("user", f"{PLACE}\nPut your final answer within \\boxed{{}}.")),
            "DeepSeek-R1-Zero (arXiv 2501.12948); the request for a box is ours",
        ),
        Template("plain", _USER, "the problem alone"),
        Template("demo", _USER, "the demo's arithmetic, whose models know nothing but the problem"),
        Template("sft", _USER_BOXED, "the prompt of boxed, and the solution, for verl's supervised trainer", True),
    )
}


@dataclass(frozen=True)
class Baked:
    """A template that is found inside the prompts of a file: what stands before and after the problem."""

    name: str
    before: str
    after: str


_CHATML = "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"
_CHATML_END = ("<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n<|im_start|>assistant")
BAKED: tuple[Baked, ...] = (
    Baked("dapo", *_DAPO_BOXED),
    Baked("dapo_answer", *_DAPO_ANSWER),
    Baked("dapo_chinese", "", _DAPO_CHINESE.format(open='"', close='"')),
    Baked("dapo_chinese", "", _DAPO_CHINESE.format(open="“", close="”")),
    *(Baked("chatml", _CHATML.format(system=system), end) for system in _SYSTEMS for end in _CHATML_END),
    *(Baked("chatml", "<|im_start|>user\n", end) for end in _CHATML_END),
    Baked("r1", f"{_R1}\nUser: ", "\nAssistant: <think>"),
    *(
        Baked("boxed", "", f"{gap}{instruction}")
        for gap in ("\n\n", "\n", " ")
        for instruction in (
            _BOXED,
            _BOXED.replace("{}", "{{}}"),  # SimpleRL-Zoo's files: a template that was never filled in
            "Let's think step by step and output the final answer within \\boxed{}.",
            'Let\'s think step by step and output the final answer after "####".',
            "Put your final answer within \\boxed{}.",
            "Return your final response within \\boxed{}.",
            "Present the answer in LaTex format: \\boxed{Your answer}",
        )
    ),
)


class UnknownTemplateError(ValueError):
    """The messages hold more than a problem and known instructions."""


def strip(messages: Sequence[dict[str, str]], extra: Sequence[Baked] = ()) -> tuple[str, list[str]]:
    r"""The bare problem of a prompt, and the names of the templates that were taken off, outermost first.

    Args:
        messages: role and content each: a system message of those that say nothing of the problem, and one of the user.
        extra: further templates to look for.

    Raises:
        UnknownTemplateError: for other messages.

    Example:
        >>> strip([{"role": "user", "content": "1+1=?\nPut your final answer within \\boxed{}."}])
        ('1+1=?', ['boxed'])
    """
    found: list[str] = []
    *others, last = messages
    if last["role"] != "user" or len(others) > 1 or any(message["role"] != "system" for message in others):
        raise UnknownTemplateError(f"roles {[m['role'] for m in messages]}: one user message is expected, last")
    for message in others:
        if message["content"].strip() not in _SYSTEMS:
            raise UnknownTemplateError(f"unknown system message {message['content'][:60]!r}")
        found.append("system")
    text, layers = _peel(last["content"], (*extra, *BAKED))
    return text, found + layers


def _peel(text: str, known: Sequence[Baked]) -> tuple[str, list[str]]:
    layers = []
    while True:
        for baked in known:
            room = len(baked.before) + len(baked.after)
            if len(text) > room and text.startswith(baked.before) and text.endswith(baked.after):
                text = text[len(baked.before) : len(text) - len(baked.after)]
                layers.append(baked.name)
                break
        else:
            return text.strip(), layers
