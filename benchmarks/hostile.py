r"""Shapes of answers that hold up, break or blow up readers of LaTeX; none of them equals its ground truth.

Each is written short: ``("2", 900, "/")`` is 900 times 2 joined by a slash. `SHAPES` is what the tests send one by one
and what the search of `benchmarks.adversarial` sends in random sizes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

LONGEST = 1_990
"""Characters of a shape in full size; longer answers are refused unread."""


@dataclass(frozen=True)
class Shape:
    """`times` of `part` joined by `between`, or `times` of `part` and `closing` around `core`.

    Attributes:
        truth: what it is graded against.
    """

    part: str
    times: int
    between: str = ""
    core: str = ""
    closing: str = ""
    truth: str = "8"

    def text(self, times: int | None = None) -> str:
        """The answer, in full size or in another; cut to what is read at all."""
        count = self.times if times is None else times
        if self.core or self.closing:
            return self.part * count + self.core + self.closing * count
        return self.between.join([self.part] * count)

    def drawn(self, draw: random.Random) -> str:
        """In a size up to the full one."""
        return self.text(draw.randint(1, self.times))


def _once(text: str, truth: str = "8") -> Shape:
    return Shape(text, 1, truth=truth)


def _counted(part: str, numbers: range, between: str, truth: str = "8", frame: str = "@") -> Shape:
    return _once(frame.replace("@", between.join(part.replace("#", str(number)) for number in numbers)), truth)


_ROW = "&".join([r"\sqrt{2}x"] * 8)

SHAPES: dict[str, Shape] = {
    # signs
    "plus or minus": Shape(r"\pm 1", 40),
    "plus or minus in parentheses": Shape(r"(\pm ", 20, core="1", closing=")"),
    "plus or minus in a matrix": _once(r"\begin{pmatrix}" + "&".join([r"\pm 1\pm 2\pm 3"] * 10) + r"\end{pmatrix}"),
    "plus or minus in tuples": Shape(r"\pm 1", 12, ","),
    "plus or minus in sets": _counted(r"#\pm\sqrt{#}", range(60), ",", frame=r"\{@\}"),
    "minus or plus": Shape(r"\pm x\mp y", 20),
    "pmod": _once(r"n\equiv 2\pmod 7", r"n\equiv 3\pmod 7"),
    "pmod in a chain": Shape(r"x\equiv 1\pmod{2}", 60),
    "minus": Shape("-", 1_900, core="1"),
    "plus and minus": Shape("+-", 900, core="1"),
    "minus in parentheses": Shape("-(", 49, core="1", closing=")"),
    # towers and powers
    "tower": _once("2^{2^{2^{2^{2^{2}}}}}"),
    "tower below one": _once("0.5^{0.5^{0.5^{-30}}}"),
    "tower of roots": _once(r"\sqrt{2}^{\sqrt{2}^{\sqrt{2}^{\sqrt{2}^{100}}}}"),
    "tower of fractions": _once(r"(\frac{3}{2})^{(\frac{3}{2})^{(\frac{3}{2})^{10}}}"),
    "tower of e": _once("e^{e^{e^{e^{e}}}}"),
    "tower of pi": _once(r"\pi^{\pi^{\pi^{\pi}}}"),
    "tower of x": _once("x^{x^{x^{x^{x}}}}", "x^x"),
    "tower of letters": _once("a^{b^{c^{d}}}", "a^b"),
    "power of Greek letters": _once(r"\lambda^\mu", r"\mu^\lambda"),
    "power of a Greek letter": _once(r"a^\alpha", "7"),
    "powers of letters": _once("".join(f"{a}^{{{b}}}" for a in "abcdfghjk" for b in "lmnopqrs")),
    "carets": Shape("x", 900, "^"),
    "carets of two": Shape("2", 900, "^"),
    "double stars": Shape("2", 600, "**"),
    "powers nested": Shape("x^{", 45, core="2", closing="}"),
    "remainder of a tower": _once(r"7^{7^{7^{7}}} \bmod 1000"),
    "imaginary power": _once("i^{10^{100}}"),
    "power of a sum": _once("(a+b+c+d)^{1000}", "(a+b+c+d)^{999}"),
    "power of a complex number": _once("(1+i)^{100000}"),
    "power of a decimal": _once("1.5^{100000}"),
    "power of a fraction": _once(r"(\frac{999}{1000})^{1000000}", "0.5"),
    "fractional power": _once(r"(\frac{123456789}{987654321})^{\frac{12345}{67891}}", "0.5"),
    "power of a long number": _once("9" * 300 + "^{9999}"),
    "sine of a tower": _once(r"\sin(10^{10^{5}})"),
    "cosine of a factorial": _once(r"\cos(100000!)"),
    "floor of a power": _once(r"\lfloor \pi^{10000}\rfloor"),
    "logarithm of a tower": _once(r"\ln(10^{10^{10}})", "23025850929.94"),
    # factorials and the like
    "factorial of factorials": _once("9!!!!"),
    "factorial signs": Shape("!", 1_000, core="3", truth="6"),
    "large factorial": _once("1000000!"),
    "negative factorial": _once("(-5)!"),
    "nested factorials of n": _once("((n!)!)!", "n"),
    "binomial in the middle": _once(r"\binom{1000000}{500000}"),
    "binomials nested": Shape(r"\binom{", 40, core="5", closing="}{2}"),
    "choose": Shape(r"{n\choose k}", 150),
    "choose nested": Shape("{", 45, core="n", closing=r" \choose 2}"),
    "over nested": Shape("{", 45, core="n", closing=r" \over 2}"),
    "combinations": _once("C_{10^{9}}^{10^{8}}"),
    "gamma of a power": _once(r"\Gamma(10^{10})"),
    # sums, products, integrals, limits
    "sum of a million terms": _once(r"\sum_{k=1}^{10^{6}} \frac{1}{k^2+\sin k}"),
    "sum without end": _once(r"\sum_{k=1}^{\infty} \frac{\sin(k^2)}{k^3+1}"),
    "sums of sums": _once("".join(rf"\sum_{{{c}=1}}^{{100}} " for c in "abcdefgh") + "a b c d e f g h"),
    "product of many factors": _once(r"\prod_{k=1}^{10^{5}} (1+\frac{1}{k^3})"),
    "product without end": _once(r"\prod_{k=1}^{\infty} (1+\frac{1}{k^3+\sin k})"),
    "products of sums": _once(r"\prod_{a=1}^{50}\sum_{b=1}^{50}\prod_{c=1}^{50} (a+b+c)"),
    "integral to infinity": _once(r"\int_0^{\infty} \frac{\sin(x^3)}{x^2+\ln(x+1)} dx"),
    "integral of integrals": _once(r"\int_0^1\int_0^1\int_0^1 \frac{1}{1-xyz} dx dy dz"),
    "integral without ends": _once(r"\int \frac{\sqrt{x^7+1}}{\sin(x^2)+\ln x} dx"),
    "limit": _once(r"\lim_{x\to 0} \frac{\sin(\tan x)-\tan(\sin x)}{x^7}"),
    "limit that is none": _once(r"\lim_{n\to\infty} \sin(n!)\cdot n^{n}"),
    "derivative": _once(r"\frac{d^{9}}{dx^{9}} \sin(x^{9})"),
    # lists, sets, intervals, relations, matrices
    "union": Shape("(1,2)", 180, r"\cup ", truth=r"(1,2)\cup(3,4)"),
    "sets of sets": Shape(r"\{", 40, core="1", closing=r",2\}", truth=r"\{1,2\}"),
    "tuples of tuples": Shape("(", 45, core="1", closing=",2)"),
    "tuples at the right": Shape("(1,", 45, core="2", closing=")"),
    "intervals of intervals": Shape("[", 45, core="1", closing=",2)"),
    "parts of a set to match": _counted(r"\{#,\sqrt{#}\}", range(2, 60), ",", frame=r"\{@\}",
        truth=r"\{" + ",".join(rf"\{{\sqrt{{{k}}},{k}\}}" for k in range(60, 2, -1)) + r"\}"),
    "roots to match": _counted(r"\sqrt{#}+x", range(60), ",",
        truth=",".join(rf"x+\sqrt{{{k}}}" for k in range(60, 0, -1))),
    "functions to match": _counted(r"\sin(#x)", range(60), ",", truth=",".join(rf"\cos({k}x)" for k in range(60))),
    "powers to match": _counted("x^{#}", range(150), ",", frame=r"\{@\}",
        truth=r"\{" + ",".join(f"y^{{{k}}}" for k in range(150)) + r"\}"),
    "chain": Shape("1", 950, "="),
    "chain of names": _counted("x_{#}", range(250), "=", truth="=".join(f"x_{{{k}}}" for k in range(249, -1, -1))),
    "chain of inequalities": Shape("x", 280, r"\le ", truth=r"1\le x\le 2"),
    "relations in parentheses": Shape("(x=", 40, core="1", closing=")"),
    "membership": Shape(r"x\in", 300, core=" 1"),
    "without many points": _counted(r"\sqrt{#}", range(100), ",", frame=r"\mathbb{R}\setminus\{@\}",
        truth=r"\mathbb{R}\setminus\{" + ",".join(rf"\sqrt{{{k}}}" for k in range(100, 0, -1)) + r"\}"),
    "conditions": Shape(r"\{x|x\in", 40, core="1", closing=r"\}", truth="1"),
    "ratio": Shape("2", 900, ":", truth=":".join(["1"] * 899 + ["2"])),
    "ratio of roots": _counted(r"\sqrt{#}", range(2, 150), ":",
        truth=":".join(rf"\sqrt{{{4 * k}}}" for k in range(3, 151))),
    "matrix": _once(r"\begin{pmatrix}" + r"\\".join([_ROW] * 10) + r"\end{pmatrix}",
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
    "matrices nested": Shape(r"\begin{pmatrix}", 40, core="1", closing=r"\end{pmatrix}"),
    "matrices open": Shape(r"\begin{pmatrix}", 100),
    "power of a matrix": _once(r"\begin{pmatrix}1&1\\1&0\end{pmatrix}^{1000000}"),
    # numbers
    "quotient of long numbers": _once("9" * 950 + "/" + "7" * 900, "9" * 950 + "/" + "7" * 899 + "8"),
    "slashes": Shape("2", 950, "/"),
    "product of powers of ten": Shape("10^{4999}", 120, r"\cdot "),
    "scientific sums": Shape("1e5000", 250, "+"),
    "long decimal": _once("0." + "3" * 1_900, r"\sqrt{2}"),
    "long repeating decimal": _once(r"0.\overline{" + "142857" * 310 + "}", r"\sqrt{2}"),
    "decimal points": Shape("1.", 900),
    "thousands": Shape("123", 450, ","),
    "long exponent": _once("10^{" + "9" * 1_800 + "}"),
    "long base": _once("1" * 1_800 + "_{2}", "1" * 1_799 + "_{2}"),
    "long mixed number": _once(r"1\frac{" + "1" * 900 + "}{" + "3" * 900 + "}"),
    # fractions, roots, functions
    "fractions in fractions": Shape(r"\frac{1}{1+", 48, core="x", closing="}"),
    "fractions on fractions": Shape(r"\frac{", 48, core="x", closing="}{2}"),
    "fractions without braces": Shape(r"\frac12", 280),
    "root of a large index": _once(r"\sqrt[1000000000]{2}"),
    "roots in the index": Shape(r"\sqrt[", 45, closing="]{2}"),
    "roots in roots": Shape(r"\sqrt{2+", 45, core="x", closing="}", truth="x"),
    "root of a long number": _once(r"\sqrt{" + "9" * 1_800 + "}", "3"),
    "root of large primes": _once(r"\sqrt{" + "9" * 50 + "7" * 50 + "}", "3"),
    "sum of roots": _counted(r"\sqrt{#}", range(2, 180), "+"),
    "product of sums of roots": _counted(r"(\sqrt{#}+\sqrt{2#})", range(2, 60), ""),
    "sine of sines": Shape(r"\sin(", 49, core="x", closing=")", truth="x"),
    "hyperbolic sines": Shape(r"\sinh(", 8, core="3", closing=")"),
    "powers of sines": Shape(r"\sin^{", 40, core="2", closing="}x", truth="x"),
    "product of sines": _counted(r"\sin(#x)", range(150), ""),
    "logarithms nested": Shape(r"\log(", 45, core="9", closing=")"),
    "logarithms in the base": Shape(r"\log_{", 45, core="9", closing="} 2"),
    "product of logarithms": Shape(r"\log_{2} 3\cdot", 60, core="1"),
    "greatest common divisor": _once(r"\gcd(2^{2^{100}},3)"),
    "maximum": _counted("x^{#}", range(1, 200), ",", frame=r"\max(@)", truth="x"),
    "minimum nested": Shape(r"\min(1,", 45, core="x", closing=")", truth="x"),
    "floors": _counted(r"\lfloor x/#\rfloor", range(2, 90), "+"),
    "floors nested": Shape(r"\lfloor ", 45, core="x", closing=r"\rfloor "),
    "absolute values": _counted("|x-#|", range(200), "+"),
    "absolute values nested": Shape("|", 40, core="x", closing="|"),
    "bars": Shape("a|b", 600),
    "calls": Shape("f(", 45, core="x", closing=")", truth="x"),
    "primes": Shape("'", 1_900, core="f", truth="f'"),
    "letters with primes": Shape("a'", 900),
    "letters": Shape("abcdefghijklmnop", 110),
    "product of brackets": _counted("(x+#)", range(1, 280), ""),
    "names": _counted("x_{#}", range(250), ""),
    "subscripts nested": Shape("x_{", 45, core="1", closing="}"),
    # units and words
    "units": _once(r"5\text{ " + "cm " * 600 + "}", r"5 \text{ cm}"),
    "units divided": _once(r"5 \text{ " + "/".join(["m"] * 900) + "}", r"5 \text{ m}"),
    "unit to a power": _once(r"5 \text{ cm}^{99}", r"5 \text{ m}^{99}"),
    "text after text": Shape(r"\text{cm}", 220, truth=r"5\text{ cm}"),
    "spaces before a unit": Shape("1 ", 900, core=r"\text{cm", truth=r"5 \text{ cm}"),
    "words": Shape("apples", 250, " ", truth="5 apples"),
    "degrees": _once("5" + r"^{\circ}" * 240),
    # characters
    "tildes": Shape("~", 1_900, core="7"),
    "thin spaces": Shape(r"\,", 900, core="7"),
    "backslashes": Shape("\\", 1_900),
    "unknown commands": Shape(r"\foo", 450),
    "long command": _once("\\" + "pm" * 900),
    "boxes in boxes": Shape(r"\boxed{", 49, core="7", closing="}"),
    "colours in colours": Shape(r"\textcolor{red}{", 49, core="7", closing="}"),
    "left and right": Shape(r"\left(", 49, core="1", closing=r"\right)"),
    "braces": Shape("{}", 950),
    "commas and spaces": Shape(", ", 900, core="7"),
    "crossed brackets": Shape("([)]", 450),
    "and": Shape("1", 300, " and ", truth="1,2"),
    "unicode digits": Shape("\u0663", 900),
    "superscript digits": Shape("x\u00b2\u00b3", 600),
    "combining characters": Shape("1\u0301", 900),
    "control characters": Shape("".join(map(chr, range(1, 32))), 60, core="7"),
    "surrogates": Shape("\ud83d", 900),
    "infinity signs": Shape("\u221e", 900),
    "root signs": Shape("\u221a", 900, core="2"),
    "line separators": Shape("\u2028", 900, core="7"),
    "characters of other alphabets": Shape("\u4e03\u0436\u03c9", 600),
    "bold digits": Shape("\U0001d7d5", 900),
}  # fmt: skip
