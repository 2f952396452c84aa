r"""One spelling for what is written in many: LaTeX of an answer made canonical. Text in, text out.

Commands are read whole, never by their first letters. Loaded in the grading processes, so it imports the standard
library only. All expressions here are free of nested repetition: the time they take grows no faster than the square of
an answer's length, which is limited.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import accumulate


def _greek(code: int) -> str:
    name = unicodedata.name(chr(code)).split()[-1].replace("LAMDA", "LAMBDA")
    return f"\\{name.capitalize() if chr(code).isupper() else name.lower()} "


_UNICODE = str.maketrans({
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "∕": "/", "′": "'",
    "’": "'", "°": r"^{\circ}", "℃": r"^{\circ}C", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "≤": r"\le ",
    "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∓": r"\mp ", "∈": r"\in ", "∅": r"\emptyset ", "√": r"\sqrt",
    "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "µ": r"\mu ", "ϕ": r"\phi ", "≈": r"\approx ",
    "≡": r"\equiv ", "。": ".", "、": ",", "\u2126": r"\Omega ", "∖": r"\setminus ", "⟨": "(", "⟩": ")",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}",
    **{digit: f"^{{{value}}}" for value, digit in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    **{digit: f"_{{{value}}}" for value, digit in enumerate("₀₁₂₃₄₅₆₇₈₉")},
    **{chr(code): _greek(code) for code in (*range(0x391, 0x3A2), *range(0x3A3, 0x3AA), *range(0x3B1, 0x3CA))},
})  # fmt: skip
_RENAMED: dict[str, str] = {
    name: new
    for new, names in {
        "": "left right mleft mright bigl bigr Bigl Bigr biggl biggr Biggl Biggr big Big bigg Bigg displaystyle "
        "textstyle scriptstyle limits nolimits bf rm it sf bfseries large Large LARGE huge small normalsize "
        "ensuremath underline fbox boxed emph",
        " ": "quad qquad enspace thinspace ldots cdots dots",
        "\\frac": "dfrac tfrac cfrac",
        "\\binom": "dbinom tbinom",
        "\\text": "textbf textit textrm textnormal textsf texttt mathrm mathbf mathit mathsf mbox hbox operatorname "
        "boldsymbol bm pmb bold textup",
        "\\le ": "leq leqslant leqq",
        "\\ge ": "geq geqslant geqq",
        "\\ne ": "neq",
        "<": "lt",
        ">": "gt",
        "\\{": "lbrace",
        "\\}": "rbrace",
        "|": "lvert rvert vert mid",
        "(": "langle lparen",
        ")": "rangle rparen",
        "\\mod ": "bmod",
        "\\emptyset ": "varnothing",
        "\\setminus ": "backslash smallsetminus",
        "\\approx ": "simeq thickapprox doteq",
        "\\log_{10}": "lg",
        ", ": "lor vee",
        "\\to ": "rightarrow longrightarrow",
        "\\cdot ": "ast",
        "\\mathbb": "Bbb",
        "i": "imath",
        "j": "jmath",
        "^{\\circ}": "degree",
        "€": "euro",
        "£": "pounds",
        "¥": "yen",
    }.items()
    for name in names.split()
}
_NAMES = r"""
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi rho sigma tau
    upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega hbar ell infty partial
    nabla frac sqrt binom sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh coth sech csch log ln exp
    det gcd lcm min max sum prod int lim pm mp times cdot div le ge ne in notin cup cap setminus emptyset circ prime
    approx equiv to text mathbb mathcal begin end overline bar vec hat dot ddot tilde widehat overrightarrow angle
    triangle mod pmod lfloor rfloor lceil rceil colon odot cr over choose
"""
_COMMANDS = frozenset(_NAMES.split())
"""What the readers of formulas may be given: they would take any other command for the one that it begins with."""
_GLUED = re.compile(
    r"(?!coth|cosec|lnot|lneq|lnap|cdotp|sinh|cosh|tanh|sech)"
    r"(alpha|beta|gamma|delta|theta|lambda|omega|sigma|phi|rho|tau|pi|infty|cdot|times|sin|cos|tan|cot|sec|csc|ln|log)"
    r"([A-Za-z]{1,2})"
)
_WORDS = r"(?<![\\A-Za-z])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt)(?=[\s({\\])"
_BRACES = r"[^{}]*(?:\{[^{}]*\}[^{}]*)*"
_ARGUMENT = rf"(\d|[A-Za-z]|\\[A-Za-z]+(?![A-Za-z{{])|\{{{_BRACES}\}})"
_BASES = dict(
    zip(
        ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "sixteen"],
        (*range(2, 13), 16),
        strict=True,
    )
)
_BASIS = (
    r"\\(?:mathbf|boldsymbol|bm|pmb|bold|hat|widehat|vec|overrightarrow)\s*"
    r"(?:\{\s*(?:\\?([ijk])(?:math)?|\\Upsilon_\{(\d)\})\s*\}|([ijk])(?![A-Za-z]))"
)


def basis(match: re.Match[str]) -> str:
    r"""A symbol of its own for a vector of the basis: ``\mathbf{i}`` is not the imaginary unit."""
    letter, number, bare = [*match.groups(""), "", ""][:3]
    return f"\\Upsilon_{{{number or ' ijk'.index(letter or bare)}}} "


_RULES: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"\\(?:phantom|hspace|vspace|label|tag|color|textcolor|colorbox)\s*(?:\[[^\[\]]*\]\s*)?\{[^{}]*\}", ""),
    (r"\\\{\s*\\\}", r"\\emptyset "),
    (r"\\text\{([abdefijknpqrtuvwxyzA-IL-MO-UX-Z]|arcsin|arccos|arctan)\}(?=\s*[({^_])", r"\1"),
    (r"((?:^|[-+*/(=<>,{^\d])\s*)\\text\s*\{([ie])\}", r"\1\2"),
    (r"([-+*(=<>^]\s*)\\text\s*\{([a-zA-Z])\}", r"\1\2"),
    (r"<=", r"\\le "),
    (r">=", r"\\ge "),
    (r"\^\s*\\circ(?![A-Za-z])|\^\s*\{\s*\\circ\s*\}|\^\s*\^\{\\circ\}", r"^{\\circ}"),
    (r"\\mathbb\s*([A-Z])", r"\\mathbb{\1}"),
    (r"\\text\s*\{\s*,?\s*(?:and|or|或|和)\s*,?\s*\}", ", "),
    (r"(?<![A-Za-z\\])\s*,?\s*\b(?:and|or)\b(?![A-Za-z])", ", "),
    (r"\b(?:np|numpy|math|sympy)\.", ""),
    (r"(?<=:\d\d)\s*(?:\\text\s*\{\s*)?([aApP])\.?\s*[mM]\.?(?:\s*\})?$", lambda m: f"\\text{{{m.group(1)}m}}"),
    (r"\*\*", "^"),
    (r"(?<![\^_{])\s*\*(?!\})", r" \\cdot "),
    (r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
    (r"(?<=\d)\s*\{,\}\s*(?=\d)", ""),
    (_WORDS, r"\\\1"),
    (r"_\s*\{\s*\\(?:max|min)\s*\}", lambda m: "_{" + m.group().strip("_{} \\") + "}"),
    (r"_\s*\{\s*\\(?:odot|text)\s*(?:\{([A-Za-z0-9 ]*)\})?\s*\}", lambda m: "_{" + (m.group(1) or "odot") + "}"),
    (
        r"^\(?([0-9A-F.]+)\)?\s*(?:_\s*\{?\s*(?:\\text\s*\{|\()?|\(?\s*base\s|\\text\s*\{\s*\(?\s*(?:in )?base\s)"
        rf"\s*\}}?\s*(\d+|{'|'.join(sorted(_BASES, key=len, reverse=True))})\s*[)}}]*$",
        lambda m: f"{m.group(1)}_{{{_BASES.get(m.group(2), m.group(2))}}}",
    ),
    (r"(?<=[A-Za-z)}])'", r"^{\\prime}"),
]  # fmt: skip
_REWRITES = [(re.compile(pattern), replacement) for pattern, replacement in _RULES]
_SHORT_FRACTION = re.compile(rf"\\(frac|binom)\s*{_ARGUMENT}\s*(\d|[a-zA-Z]|\\[A-Za-z]+(?![A-Za-z{{])|\{{)")
_SHORT_ROOT = re.compile(r"\\sqrt\s*(\[[^\[\]]*\])?\s*(\d|[a-zA-Z]|\\[A-Za-z]+(?![A-Za-z{]))")
_MODULO = re.compile(
    r"\(?\s*(?:\\[bp]?mod(?![A-Za-z])|\\text\s*\{\s*mod\s*\}|(?<![A-Za-z\\])mod(?![A-Za-z]))"
    r"\s*(?:\{([^{}]+)\}|(\d+|[A-Za-z]))\s*\)?"
)
_INFIXES = 20
_NEW_ROW = "\ue000"  # stands for a double backslash meanwhile, which the rules would take for two commands
_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\u200b-\u200f\ufeff\ue000]")


def _command(match: re.Match[str]) -> str:
    r"""A command in its usual spelling; ``\pit`` is ``\pi t``: spaces were taken out of the file."""
    name = match.group(1)
    if name in _RENAMED:
        return _RENAMED[name]
    glued = None if name in _COMMANDS else _GLUED.fullmatch(name)
    return match.group() if glued is None else f"\\{glued.group(1)} {glued.group(2)}"


def _infix(text: str) -> str:
    r"""``{a \over b}`` and ``n \choose k`` with the command in front."""
    for _ in range(_INFIXES):
        match = re.search(r"\\(over|choose)(?![A-Za-z])", text)
        if match is None:
            break
        before, behind = text[: match.start()], text[match.end() :]
        start = len(before) - 1 - _first_unmatched(reversed(before), "}{", len(before))
        end = match.end() + _first_unmatched(behind, "{}", len(behind))
        command = "frac" if match.group(1) == "over" else "binom"
        top, bottom = text[start + 1 : match.start()], text[match.end() : end]
        text = f"{text[: max(start, 0)]}\\{command}{{{top}}}{{{bottom}}}{text[end + 1 :]}"
    return text


def _first_unmatched(characters: Iterable[str], pair: str, otherwise: int) -> int:
    """Where the second of a pair of braces stands that the first has not opened."""
    depth = 0
    for position, character in enumerate(characters):
        depth += (character == pair[0]) - (character == pair[1])
        if depth < 0:
            return position
    return otherwise


def _fraction(match: re.Match[str]) -> str:
    command, top, bottom = match.groups()
    top = top if top.startswith("{") else f"{{{top}}}"
    return f"\\{command}{top}" + (bottom if bottom == "{" else f"{{{bottom}}}")


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
    # Wide letters and digits of East Asian texts are the plain ones.
    text = unicodedata.normalize("NFKC", text.translate(_UNICODE))
    text = text.replace("\\$", "\\dollar ").replace("$", "").replace("\\dollar", "\\$")
    text = re.sub(r"\\[()\[\]](?![A-Za-z])", "", text) if text.lstrip().startswith(("\\(", "\\[")) else text
    text = re.sub(r"(?<=\d),\\!\s*(?=\d)", "", text)
    text += "}" * (len(re.findall(r"(?<!\\)\{", text)) - len(re.findall(r"(?<!\\)\}", text)))
    text = re.sub(r"\\(?:left|right|mleft|mright)\s*\.", "", text)
    text = re.sub(r"\\[,;:!> ]|(?<!\\)~", " ", text)
    text = re.sub(_BASIS, basis, re.sub(_BASIS, basis, text))
    text = re.sub(r"\\([A-Za-z]+)\*?", _command, text)
    text = re.sub(r"\s{3,}", "  ", _infix(text))
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    if "\\equiv" in text or "\\pmod" in text:
        text = _MODULO.sub(lambda match: f"\\pmod{{{match.group(1) or match.group(2)}}}", text)
    text = _SHORT_ROOT.sub(r"\\sqrt\1{\2}", _roots(text))
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
    # The space that ends a command stays: \in t is not \int.
    text = re.sub(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])", "\\1\x00", text)
    text = re.sub(r"\s+", "", text).replace("\x00", " ")
    return re.sub(r"([_^])\{(\w)\}", r"\1\2", text)


def is_readable(text: str) -> bool:
    """Whether all commands of a canonical text are among those that formulas are read with."""
    return _COMMANDS.issuperset(re.findall(r"\\([A-Za-z]+)", text))


def has_command(text: str, *names: str) -> bool:
    r"""Whether one of these commands, whole, occurs: ``\pm`` does not occur in ``\pmod``."""
    return any(name in names for name in re.findall(r"\\([A-Za-z]+)", text))


def bracket_depths(text: str) -> list[int]:
    """How many brackets are open behind each character."""
    return list(accumulate((character in "([{") - (character in ")]}") for character in text))


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
