r"""One spelling for what is written in many: LaTeX of an answer made canonical. Text in, text out.

Loaded in the grading processes, so it imports the standard library only. All expressions here are free of nested
repetition: the time they take grows no faster than the square of an answer's length, which is limited.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

_UNICODE = {
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "∕": "/", "π": r"\pi ",
    "°": r"^{\circ}", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
    "±": r"\pm ", "∓": r"\mp ", "∈": r"\in ", "∅": r"\emptyset ", "√": r"\sqrt", "²": "^{2}", "³": "^{3}",
    "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ",
    "ω": r"\omega ", "λ": r"\lambda ", "μ": r"\mu ", "≈": r"\approx ", "，": ",", "。": ".", "％": r"\%",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "′": "'", "’": "'",
}  # fmt: skip
_NAMES = r"""
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi rho sigma tau
    upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega hbar ell infty partial nabla
    frac sqrt binom sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp det gcd lcm min max sum
    prod int lim pm mp times cdot div le leq leqslant ge geq geqslant lt gt ne neq in notin cup cap setminus subset
    emptyset varnothing circ degree prime infty approx equiv to mid text mathrm mathbf mathbb mathcal mathit textbf
    textit operatorname left right lfloor rfloor lceil rceil lvert rvert lVert rVert langle rangle begin end bar vec
    hat dot ddot tilde overline underline boxed quad qquad ldots cdots dots angle triangle sim land lor wedge vee mod
    pmod bmod odot oplus otimes star ast backslash phantom displaystyle dfrac tfrac cfrac mathsf mbox rm Re Im arg
    mho forall exists neg perp parallel cong bullet tbinom dbinom stackrel choose over big Big bigg Bigg bigl bigr
    Bigl Bigr limits iff implies Rightarrow rightarrow textstyle therefore because rad deg sgn colon square
    textrm textnormal hspace lbrace rbrace degree mleft mright biggl biggr dollar cr bf it
"""
_COMMANDS = frozenset(_NAMES.split())
_GLUED = sorted(
    (name for name in _COMMANDS if name not in ("in", "to", "le", "ge", "ne", "lt", "gt", "mu", "nu", "xi")),
    key=len,
    reverse=True,
)
_WORDS = r"(?<![\\A-Za-z])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt)(?=[\s({\\])"
_RULES: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"\\[({\[]\s*(?=\\boxed)", ""),
    (r"\\(?:left|right|m?left|m?right)\s*\.", ""),
    (r"\\(?:left|right|mleft|mright|bigl|bigr|Bigl|Bigr|biggl|biggr|big|Big|bigg|Bigg)(?![A-Za-z])", ""),
    (r"\\(?:displaystyle|textstyle|limits|phantom\{[^{}]*\}|hspace\{[^{}]*\})", ""),
    (r"\\[,;:!> ]|\\q?quad(?![A-Za-z])|(?<!\\)~", " "),
    (r"\\(?:[dtc])frac(?![A-Z])", r"\\frac"),
    (r"\\[dt]binom", r"\\binom"),
    (r"\\(?:textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|mbox|operatorname\*?)\s*\{", r"\\text{"),
    (r"\\(?:bf|rm|it)(?![A-Za-z])", ""),
    (r"\\text\s*\{\s*\}", ""),
    (r"\\text\{([a-zA-Z]|arcsin|arccos|arctan)\}(?=\s*[({^_])", r"\1"),
    (r"\\(?:leq|leqslant)(?![A-Za-z])|<=", r"\\le "),
    (r"\\(?:geq|geqslant)(?![A-Za-z])|>=", r"\\ge "),
    (r"\\lt(?![A-Za-z])", "<"),
    (r"\\gt(?![A-Za-z])", ">"),
    (r"\\neq(?![A-Za-z])|!=", r"\\ne "),
    (r"\\varnothing", r"\\emptyset "),
    (r"\\(?:lbrace)(?![A-Za-z])", r"\\{"),
    (r"\\(?:rbrace)(?![A-Za-z])", r"\\}"),
    (r"\\[lr]vert(?![A-Za-z])", "|"),
    (r"\^\s*\\circ(?![A-Za-z])|\^\s*\{\s*\\circ\s*\}|\\degree(?![A-Za-z])|\^\s*\\degree", r"^{\\circ}"),
    (r"\\text\{\s*(?:and|or)\s*,?\s*\}|\\(?:lor|vee)(?![A-Za-z])", ", "),
    (r"(?<![A-Za-z\\])\s*,?\s*\b(?:and|or)\b(?![A-Za-z])", ", "),
    (r"\\(?:ldots|cdots|dots)(?![A-Za-z])", " "),
    (r"\b(?:np|numpy|math|sympy)\.", ""),
    (r"(?<=:\d\d)\s*(?:\\text\s*\{\s*)?([aApP])\.?\s*[mM]\.?(?:\s*\})?$", lambda m: f"\\text{{{m.group(1)}m}}"),
    (r"\*\*", "^"),
    (r"\*|\\ast(?![A-Za-z])", r" \\cdot "),
    (r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
    (r"(?<![\\A-Za-z])(?:infinity|infty|inf|oo)(?![A-Za-z])", r"\\infty "),
    (r"(?<=\d)\s*\{,\}\s*(?=\d)", ""),
    (r"(?<=\d),\s{1,2}(?=\d{3}\s*,\s\s)", ""),
    (_WORDS, r"\\\1"),
    (r"\\sqrt\s*\(", r"\\sqrt("),
    (r"_\s*\{\s*\\(?:max|min)\s*\}", lambda m: "_{" + m.group().strip("_{} \\") + "}"),
    (r"_\s*\{\s*\\(?:odot|text)\s*(?:\{([A-Za-z0-9 ]*)\})?\s*\}", lambda m: "_{" + (m.group(1) or "odot") + "}"),
    (r"(?<=[A-Za-z)}])'", r"^{\\prime}"),
]
_REWRITES = [(re.compile(pattern), replacement) for pattern, replacement in _RULES]
_SHORT_FRACTION = re.compile(r"\\frac\s*(\d|[a-zA-Z]|\{[^{}]*\})\s*(\d|[a-zA-Z]|\{)")
_SHORT_ROOT = re.compile(r"\\sqrt\s*(\d|[a-zA-Z])")
_NEW_ROW = "\ue000"  # stands for a double backslash meanwhile, which the rules would take for two commands
_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\u200b-\u200f\ufeff\ue000]")


def _unglue(match: re.Match[str]) -> str:
    r"""``\pit`` is ``\pi t``: spaces were taken out of the file."""
    name = match.group(1)
    if name in _COMMANDS:
        return match.group()
    known = next((prefix for prefix in _GLUED if name.startswith(prefix)), None)
    return match.group() if known is None else f"\\{known} {name[len(known) :]}"


def _fraction(match: re.Match[str]) -> str:
    top, bottom = match.groups()
    top = top if top.startswith("{") else f"{{{top}}}"
    return f"\\frac{top}" + (bottom if bottom == "{" else f"{{{bottom}}}")


def _roots(text: str) -> str:
    """``sqrt(...)`` with the parentheses that belong to it made braces."""
    while (start := text.find("\\sqrt(")) >= 0:
        depth, position = 0, start + 5
        for position in range(start + 5, len(text)):
            depth += {"(": 1, ")": -1}.get(text[position], 0)
            if depth == 0:
                break
        if depth:
            return text
        text = f"{text[:start]}\\sqrt{{{text[start + 6 : position]}}}{text[position + 1 :]}"
    return text


@lru_cache(maxsize=4096)
def canonical(text: str) -> str:
    r"""The same answer in one spelling.

    Example:
        >>> canonical(r"$\left(\dfrac12,\ \sqrt3\right)$.")
        '(\\frac{1}{2}, \\sqrt{3})'
    """
    text = re.sub(r"\s{3,}", "  ", _INVISIBLE.sub(" ", text))
    if "\\begin" in text:
        text = text.replace("\\\\", _NEW_ROW)
    else:
        text = re.sub(r"\\\\(?=[A-Za-z])", r"\\", text).replace("\\\\", " ")
    for character, command in _UNICODE.items():
        text = text.replace(character, command)
    text = text.replace("\\$", "\\dollar ").replace("$", "").replace("\\dollar", "\\$")
    text = re.sub(r"\\[()](?![A-Za-z])", "", text) if text.startswith("\\(") else text
    text = re.sub(r"(?<=\d),\\!\s*(?=\d)", "", text)
    text += "}" * (len(re.findall(r"(?<!\\)\{", text)) - len(re.findall(r"(?<!\\)\}", text)))
    text = re.sub(r"\\([A-Za-z]+)", _unglue, text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", _roots(text))
    text = _SHORT_FRACTION.sub(_fraction, text)
    text = re.sub(r"\s+", " ", text).strip().rstrip(" .,;:")
    return text.replace(_NEW_ROW, "\\\\ ")


@lru_cache(maxsize=4096)
def key(text: str) -> str:
    r"""What two spellings of the same text share: no spaces, no needless braces, no ``\text``.

    Example:
        >>> key(r"\text{Evelyn}") == key("Evelyn"), key("x_{1} ^{2}") == key("x_1^2")
        (True, True)
    """
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", canonical(text))
    text = re.sub(r"\s+", "", text)
    return re.sub(r"([_^])\{(\w)\}", r"\1\2", text)


def split(text: str, separators: str) -> list[str]:
    """Parts between the separators that stand outside all brackets."""
    parts, start, depth = [], 0, 0
    for position, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif depth == 0 and character in separators:
            parts.append(text[start:position].strip())
            start = position + 1
    return [*parts, text[start:].strip()]


def wrapped(text: str) -> tuple[str, str, str] | None:
    r"""Opening bracket, content and closing bracket where one pair encloses the whole text; ``\{`` counts as one."""
    opening = next((mark for mark in ("\\{", "(", "[", "{") if text.startswith(mark)), None)
    if opening is None:
        return None
    depth = 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and position >= len(opening):
            if position != len(text) - 1:
                return None
            closing = "\\}" if text.endswith("\\}") else text[-1]
            return opening, text[len(opening) : -len(closing)].strip(), closing
    return None
