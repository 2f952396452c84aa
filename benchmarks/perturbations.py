r"""Wrong answers made from right ones, to see that a verifier refuses them.

Each function takes a ground truth and gives a wrong answer of its kind, or None where the kind does not apply or
where the result would say the same: -0 is 0, 1/1 turned over is 1/1, and \pm x with its sign flipped is \mp x.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from verl_ext.rewards._latex import canonical, split, wrapped
from verl_ext.rewards._units import take_off

_NO_AMOUNT = re.compile(r"\\pm|\\mp|\\begin|\\text|=|<|>|\\le|\\ge|\\in|\\cup|[\[{(][^\])}]*,")
_INTEGER = re.compile(r"-?\d+")


def integer_up(truth: str) -> str | None:
    """An integer plus one."""
    return str(int(truth) + 1) if _INTEGER.fullmatch(truth) else None


def integer_down(truth: str) -> str | None:
    """An integer less one."""
    return str(int(truth) - 1) if _INTEGER.fullmatch(truth) else None


def sign_flipped(truth: str) -> str | None:
    r"""The sign of a single amount turned round.

    Not of 0; not of words, choices and bare names, where a sign has no sense (``-\text{east}``); not of relations
    (with all terms on one side the sign does not count), lists, intervals and matrices; not of ``\pm``.
    """
    text = canonical(truth)
    several = len(split(text, ",;")) > 1 or wrapped(text) or _NO_AMOUNT.search(text)
    words = re.search(r"[a-zA-Z]{4,}", re.sub(r"\\[a-z]+", "", text))
    if several or words or re.match(r"\d+_", text) or not re.search(r"[1-9]", text):
        return None
    literal_minus = text.startswith("-") and not re.search(r"[+-]", text[1:])
    return text[1:] if literal_minus else f"-({text})"


def fraction_inverted(truth: str) -> str | None:
    """A single fraction turned over; not 1/1 and not -1/1."""
    match = re.fullmatch(r"(-?)\\frac\{([^{}]+)\}\{([^{}]+)\}|(-?)(\d+)/(\d+)", canonical(truth))
    if match is None:
        return None
    sign, top, bottom = (group for group in match.groups() if group is not None)
    return None if top.lstrip("-") == bottom else f"{sign}\\frac{{{bottom}}}{{{top}}}"


def member_dropped(truth: str) -> str | None:
    """A list or a set without its last member; not where that member stands in it twice and braces make it a set."""
    text = canonical(truth)
    if re.fullmatch(r"\d{1,3}(,\d{3})+", text):
        return None
    brackets = wrapped(text)
    in_braces = brackets is not None and brackets[0] == "\\{"
    members = split(brackets[1] if brackets and in_braces else text, ",;")
    if len(members) < 2 or (in_braces and members[-1] in members[:-1]):
        return None
    rest = ", ".join(members[:-1])
    return f"\\{{{rest}\\}}" if in_braces else rest


def wrong_unit(truth: str) -> str | None:
    """The amount with another unit, where the ground truth names one."""
    amount, unit = take_off(canonical(truth))
    if unit is None or not re.search(r"\d", amount) or "," in amount:
        return None
    name = unit.dimension[0][0]
    return amount + ("\\%" if name == "degree" else "^{\\circ}" if name == "percent" else "\\text{ furlongs}")


KINDS: dict[str, Callable[[str], str | None]] = {
    "integer + 1": integer_up,
    "integer - 1": integer_down,
    "sign flipped": sign_flipped,
    "fraction inverted": fraction_inverted,
    "member dropped": member_dropped,
    "wrong unit": wrong_unit,
}


def perturbed(truth: str) -> Iterator[tuple[str, str]]:
    """Every kind that applies, with the wrong answer of that kind."""
    for kind, change in KINDS.items():
        answer = change(truth)
        if answer is not None:
            yield kind, answer
