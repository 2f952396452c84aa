"""When two expressions have the same value: constants exactly or to 30 digits, others at points drawn once for all.

Values are computed bottom up, rational ones exactly and the others by mpmath, never by sympy, which would compute
whatever is written. The work is counted, so that a value too large, or a sum too long, is given up at once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import sympy
from mpmath import mp

from verl_ext.rewards._numbers import TRUTH_DIGITS, Literal
from verl_ext.rewards._work import spend

EXACT_BITS = 1 << 17
"""A rational number with more bits in it is too large."""
INEXACT_BITS = 1 << 12
"""Another number is too large, or too small, with a logarithm to base 2 above this."""
_LARGEST_POWER = 100_000
"""An exponent above this is too large whatever its base."""
_WORK = 30_000
"""Operations for one value; those on long numbers count more."""
_TERMS = 200
"""Of a series without end."""
_PRECISION = 400
_ZERO = mp.mpf(2) ** -350
_DIGITS = mp.mpf(10) ** -30
_DECIMAL_DIGITS = mp.mpf(10) ** -9
"""How far decimals may be apart, which are rounded."""
_LEAST_POINTS = 3

_SAME_NAME = """
    sin cos tan cot sec csc asin acos atan acot asec acsc sinh cosh tanh coth sech csch asinh acosh atanh acoth log
    erf arg conjugate re im
"""
_FUNCTIONS: dict[str, Callable[..., Any]] = {name: getattr(mp, name) for name in _SAME_NAME.split()}
_ROUNDING = (sympy.floor, sympy.ceiling, sympy.Mod)
_STEPS = (sympy.Sum, sympy.Product, sympy.factorial, sympy.binomial)
_REAL_LETTERS = frozenset("rstuvwxyz") | {"theta"}
"""Names of real variables, as people use them: floors of others are compared at whole numbers only."""


class TooLargeError(Exception):
    """A value that is too large, or takes too long, to compute."""


class _UnknownError(Exception):
    """No value: not defined here, or of a function that nobody knows here."""


class _Evaluation:
    """One expression at one point.

    Attributes:
        bits: largest logarithm to base 2 of the inexact values met.
    """

    def __init__(self, point: Mapping[str, Any]) -> None:
        self.point, self.work, self.bits = dict(point), 0, 0
        self.vanishing = False  # whether values too small are nothing: in what tends to a limit

    def of(self, expr: Any) -> Any:
        """The value: a Fraction where it is rational and came of rational numbers, else a number of mpmath."""
        if isinstance(expr, sympy.Rational):
            return self.checked(Fraction(int(expr.p), int(expr.q)))
        if isinstance(expr, sympy.Float):
            return self.checked(Fraction(str(expr)))
        if isinstance(expr, sympy.Symbol):
            # A name may be bound in one part and stand alone in another, without a value.
            found = self.point.get(expr.name)
            return self.unknown() if found is None else found
        if expr.is_Atom:
            return mp.mpmathify(expr._to_mpmath(mp.prec)) if expr.is_number else self.unknown()
        if isinstance(expr, sympy.Sum | sympy.Product | sympy.Integral | sympy.Limit):
            return self.checked(self.bound(expr))
        if isinstance(expr, sympy.Pow):
            return self.checked(self.power(expr.base, self.of(expr.exp)))
        method = getattr(self, f"of_{expr.func.__name__}", None)
        values = [self.of(part) for part in expr.args]
        if method is not None:
            return self.checked(method(*values))
        function = _FUNCTIONS.get(expr.func.__name__) or self.unknown()
        return self.checked(function(*map(_inexact, values)))

    def unknown(self) -> Any:
        raise _UnknownError

    def checked(self, value: Any) -> Any:
        self.work += 1
        if isinstance(value, Fraction):
            bits = max(value.numerator.bit_length(), value.denominator.bit_length())
            self.work += bits >> 7
            if bits > EXACT_BITS:
                raise TooLargeError
        elif mp.isnan(value):
            raise _UnknownError
        elif value and not mp.isinf(value):
            self.bits = max(self.bits, mp.mag(value))
            if self.bits > INEXACT_BITS:
                raise TooLargeError
            if isinstance(value, mp.mpc) and not value.imag:
                value = value.real
        if self.work > _WORK:
            raise TooLargeError
        return value

    def of_Add(self, *terms: Any) -> Any:
        total: Any = Fraction(0)
        for term in terms:
            total = self.checked(total + term if _exact(total, term) else _inexact(total) + _inexact(term))
        return total

    def of_Mul(self, *factors: Any) -> Any:
        product: Any = Fraction(1)
        for factor in factors:
            product = self.checked(
                product * factor if _exact(product, factor) else _inexact(product) * _inexact(factor)
            )
        return product

    def of_UnevaluatedExpr(self, value: Any) -> Any:
        return value

    def of_Abs(self, value: Any) -> Any:
        return abs(value)

    def of_sign(self, value: Any) -> Any:
        return Fraction((value > 0) - (value < 0)) if _real(value) else mp.sign(value)

    def of_Max(self, *values: Any) -> Any:
        return max(values, key=_inexact)

    def of_Min(self, *values: Any) -> Any:
        return min(values, key=_inexact)

    def of_floor(self, value: Any) -> Any:
        if not isinstance(value, Fraction):
            nearest = mp.nint(value)
            # What should be whole may lie a rounding below.
            return Fraction(int(nearest if abs(value - nearest) < _ZERO else mp.floor(value)))
        return Fraction(value // 1)

    def of_ceiling(self, value: Any) -> Any:
        return -self.of_floor(-value)

    def of_Mod(self, value: Any, divisor: Any) -> Any:
        quotient = value / divisor if _exact(value, divisor) else _inexact(value) / _inexact(divisor)
        return self.of_Add(value, self.of_Mul(Fraction(-1), divisor, self.of_floor(quotient)))

    def of_exp(self, exponent: Any) -> Any:
        exponent = _inexact(exponent)
        return mp.mpf(0) if self.vanishes(mp.re(exponent)) else mp.exp(exponent)

    def vanishes(self, logarithm: Any) -> bool:
        if logarithm < -INEXACT_BITS and self.vanishing:
            return True
        if abs(logarithm) > INEXACT_BITS:
            raise TooLargeError
        return False

    def of_gamma(self, value: Any) -> Any:
        return self.of_factorial(self.of_Add(value, Fraction(-1)))

    def of_factorial(self, value: Any) -> Any:
        if abs(value) > 10_000:
            raise TooLargeError
        if _whole(value) and value >= 0:
            self.work += int(value)
            return self.checked(Fraction(math.factorial(int(value))))
        return mp.factorial(_inexact(value))

    def of_binomial(self, above: Any, below: Any) -> Any:
        if _whole(below):
            if _whole(above) and 0 <= below <= above:
                below = min(below, above - below)
            if below > 10_000:
                raise TooLargeError
            return self.of_Mul(*((above - n) / (n + 1) for n in range(int(below)))) if below >= 0 else Fraction(0)
        if max(abs(above), abs(below)) > 10_000:
            raise TooLargeError
        return mp.binomial(_inexact(above), _inexact(below))

    def power(self, base: Any, exponent: Any) -> Any:
        """Of a negative number the root with an odd index is the real one, as in school; others are the principal."""
        if base is sympy.E:
            return self.of_exp(exponent)
        return self.raised(self.of(base), exponent)

    def raised(self, base: Any, exponent: Any) -> Any:
        if isinstance(exponent, Fraction):
            if abs(exponent) > _LARGEST_POWER and base not in (0, 1, -1):
                raise TooLargeError
            if _whole(exponent) and isinstance(base, Fraction):
                if abs(exponent) * max(base.numerator.bit_length(), base.denominator.bit_length()) > 2 * EXACT_BITS:
                    raise TooLargeError
                return base ** int(exponent)
            if _real(base) and base < 0 and exponent.denominator % 2 and exponent.denominator > 1:
                root = self.raised(-base, exponent)
                return -root if exponent.numerator % 2 else root
        base, exponent = _inexact(base), _inexact(exponent)
        if not base:
            return Fraction(0) if mp.re(exponent) > 0 else self.unknown()
        return mp.mpf(0) if self.vanishes(mp.re(exponent * mp.log(base))) else mp.power(base, exponent)

    def bound(self, expr: Any) -> Any:
        """Of a sum, product, integral or limit; its last variable is the outermost."""
        if isinstance(expr, sympy.Limit):
            inner, name, place, side = expr.args
            return self.tending(mp.limit, self.along(inner, name), self.of(place), -1 if str(side) == "-" else 1)
        name, *ends = expr.limits[-1]
        if len(ends) != 2:
            raise _UnknownError
        inner = expr.func(expr.function, *expr.limits[:-1]) if len(expr.limits) > 1 else expr.function
        low, high = map(self.of, ends)
        function = self.along(inner, name)
        if isinstance(expr, sympy.Integral):
            value, error = self.tending(mp.quad, function, (low, high), error=True)
            return value if error < _DIGITS * max(1, abs(value)) else self.unknown()
        summed = isinstance(expr, sympy.Sum)
        if high == mp.inf and _whole(low):
            many = mp.nsum if summed else mp.nprod
            return self.tending(many, lambda at: function(Fraction(int(at))), (low, high), maxterms=_TERMS)
        if not (_whole(low) and _whole(high)):
            raise _UnknownError
        total = Fraction(not summed)
        for at in range(int(low), int(high) + 1):
            total = (self.of_Add if summed else self.of_Mul)(total, function(Fraction(at)))
        return total

    def tending(
        self, method: Callable[..., Any], function: Callable[[Any], Any], place: Any, *more: Any, **ways: Any
    ) -> Any:
        """What mpmath finds by trying: to half of the digits, which is enough and takes a tenth of the time."""
        before, self.vanishing = self.vanishing, True
        place = [_inexact(end) for end in place] if isinstance(place, tuple) else _inexact(place)
        with mp.workprec(_PRECISION // 2):
            found = method(lambda at: _inexact(function(at)), place, *more, **ways)
        self.vanishing = before
        return found

    def along(self, expr: Any, name: Any) -> Callable[[Any], Any]:
        def function(at: Any) -> Any:
            outside = self.point.get(name.name)
            self.point[name.name] = self.checked(at)
            try:
                return self.of(expr)
            finally:
                self.point[name.name] = outside

        return function


def _exact(*values: Any) -> bool:
    return all(isinstance(value, Fraction) for value in values)


def _whole(value: Any) -> bool:
    return isinstance(value, Fraction) and value.denominator == 1


def _real(value: Any) -> bool:
    return isinstance(value, Fraction | mp.mpf)


def _inexact(value: Any) -> Any:
    return mp.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def value(expr: Any, point: Mapping[str, Any] | None = None, precision: int = _PRECISION) -> Any:
    """The value of an expression where its variables have these values: a Fraction, or a number of mpmath.

    Args:
        expr: of sympy, evaluated or not.
        point: a Fraction or a number of mpmath for each name.
        precision: bits to begin with.

    Returns:
        None where it has no value, or none that is known.

    Raises:
        TooLargeError: if it is too large to compute.

    Example:
        >>> value(sympy.Symbol("x") ** 2 / 3, {"x": Fraction(1, 2)}), value(sympy.sympify("cbrt(-27)"))
        (Fraction(1, 12), mpf('-3.0'))
    """
    while True:
        run = _Evaluation(point or {})
        try:
            with mp.workprec(precision):
                found = run.of(expr)
        except RecursionError:
            raise TooLargeError from None
        except (_UnknownError, ArithmeticError, ValueError, TypeError, mp.NoConvergence):
            return None
        finally:
            spend(run.work >> 4)
        # Thirty digits behind the point, of numbers with many before it.
        if run.bits + _PRECISION // 2 <= precision:
            return found
        precision = run.bits + _PRECISION


def too_large(expr: Any) -> bool:
    """Whether a part of it that has no variables is too large to compute."""
    if not any(str(symbol) != "i" for symbol in expr.free_symbols):
        try:
            value(expr, {"i": mp.mpc(0, 1)})
        except TooLargeError:
            return True
        return False
    if isinstance(expr, sympy.Pow) and not expr.exp.free_symbols:
        exponent = None if too_large(expr.exp) else value(expr.exp)
        if exponent is None or abs(exponent) > _LARGEST_POWER:
            return True
    return any(too_large(part) for part in expr.args)


def _points(names: list[str], whole: list[bool], signed: bool) -> list[list[dict[str, Any]]]:
    # Drawn from the names alone: the same pair is judged the same way for ever. Each with smaller ones, to be tried
    # where a value is too large.
    draw = random.Random("|".join(names))
    points = []
    for index in range(8 if any(whole) or signed else 4):
        sign = -1 if signed and index % 2 else 1
        choices = []
        large = [draw.randint(2, 25 + 6 * index) if step else draw.randint(2_000, 30_000) for step in whole]
        small = [2 + (index + place) % 4 for place in range(len(names))]
        for scale in (1, 8, 10**6):
            numbers = [
                Fraction(sign * (one if scale == 1 else other)) if step else Fraction(sign * one, 10_007 * scale)
                for step, one, other in zip(whole, large, small, strict=True)
            ]
            choices.append(dict(zip(names, numbers, strict=True)))
        points.append(choices)
    return points


def _same_at(truth: Any, answer: Any, point: Mapping[str, Any], tolerance: Any) -> bool | None:
    """None where one of them has no value, or none that is known."""
    first, second = value(truth, point), value(answer, point)
    if first is None or second is None:
        return None
    if _exact(first, second) and tolerance is _DIGITS:
        return bool(first == second)
    with mp.workprec(INEXACT_BITS + _PRECISION):
        first, second = _inexact(first), _inexact(second)
        if mp.isinf(first) or mp.isinf(second):
            return bool(first == second)
        size = max(abs(first), abs(second))
        # What is exact is compared behind the point, however many digits stand before it.
        allowed = tolerance * (min(size, 1) if tolerance is _DIGITS else size)
        if abs(first - second) <= allowed:
            return True
    # What is nothing but rounding goes with more digits.
    return bool(size < _ZERO) and all(
        abs(_inexact(value(expr, point, 4 * _PRECISION))) <= size * _ZERO for expr in (truth, answer)
    )


def equal_expressions(truth: Any, answer: Any) -> bool:
    """Whether two expressions have the same value wherever their variables lead.

    Steps (floor, factorials, sums, powers of a negative number) are compared at whole numbers, others at fractions;
    negative values take part where an absolute value stands. What is too large to compute equals its like only.
    """
    if truth == answer:
        return True
    names = sorted({str(symbol) for expr in (truth, answer) for symbol in expr.free_symbols})
    both = (truth, answer)
    steps = any(expr.has(*_STEPS) or any(map(_alternates, expr.atoms(sympy.Pow))) for expr in both)
    rounding = any(expr.has(*_ROUNDING) for expr in both)
    whole = [steps or (rounding and name not in _REAL_LETTERS) for name in names]
    decimal = any(expr.has(sympy.Float) for expr in both)
    tried = failed = 0
    points = _points(names, whole, any(expr.has(sympy.Abs) for expr in both)) if names else [[{}]]
    for choices in points:
        # Beside large values, decimals would hide what differs: so small ones as well.
        wanted = 2 if decimal else 1
        for point in choices:
            try:
                same = _same_at(truth, answer, point, _DECIMAL_DIGITS if decimal else _DIGITS)
            except TooLargeError:
                failed += 1
                if failed > 2 * len(points):
                    return False
                continue
            if same is False:
                return False
            tried, wanted = tried + bool(same), wanted - bool(same)
            if not wanted:
                break
    return tried >= (_LEAST_POINTS if names else 1)


def _alternates(power: Any) -> bool:
    return bool(power.exp.free_symbols) and bool(power.base.is_negative)


def equal_number_expression(number: Literal, expr: Any, number_is_truth: bool) -> bool:
    """Whether a number that is written out is the value of an expression, or its rounded form."""
    if number.place is None or expr.free_symbols:
        return equal_expressions(sympy.Rational(number.value.numerator, number.value.denominator), expr)
    try:
        found = value(expr)
    except TooLargeError:
        return False
    if found is None or abs(mp.im(_inexact(found))) > _ZERO or mp.isinf(_inexact(found)):
        return False
    exact = found if isinstance(found, Fraction) else _fraction(mp.re(found))
    if abs(exact - number.value) <= abs(number.value) / 10**25:
        return True
    return number.stands_for(exact) or (number_is_truth and number.digits >= TRUTH_DIGITS and number.rounds_from(exact))


def _fraction(real: Any) -> Fraction:
    mantissa, exponent = int(real.man), int(real.exp)
    return (-1 if real < 0 else 1) * Fraction(abs(mantissa)) * Fraction(2) ** exponent
