"""Checks of single hyper-parameters: what they take, what type comes out, and what a refusal says."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from omegaconf import OmegaConf

from verl_ext.hyper import Check, Checked, ascending, flag, hyper, integer, number, one_of, text

TAKEN = [
    (text(), ["\n\n", " ", "a"]),
    (flag(), [True, False]),
    (integer(least=1), [1, 10, 10**9]),
    (integer(least=-2), [-2, 0]),
    (number(), [-1e9, 0, 0.5]),
    (number(least=0), [0, 0.0, 1, 1e-9]),
    (number(least=0, most=1), [0, 0.3, 1]),
    (number(above=0), [1e-12, 1, 1e9]),
    (number(above=0, most=1), [1e-12, 1]),
    (one_of("a", "b"), ["a", "b"]),
    (ascending(above=0, below=1), [[], [0.5], [0.1, 0.9]]),
]


@pytest.mark.parametrize(("check", "values"), TAKEN, ids=lambda x: x.wanted if isinstance(x, Check) else "")
def test_what_is_taken_comes_out_as_it_is(check: Check, values: list[Any]) -> None:
    for value in values:
        assert check(value) == value


REFUSED = [
    (text(), "a string that is not empty", ["", None, 1, True, ["\n"], b"x"]),
    (flag(), "true or false", ["true", "false", 0, 1, None, 1.0, []]),
    (integer(least=1), "a whole number >= 1", [0, -3, 1.0, 2.5, "2", True, None, math.inf]),
    (number(), "a finite number", [math.nan, math.inf, -math.inf, "1", True, None, [1]]),
    (number(least=0), "a finite number >= 0", [-1e-9, math.nan]),
    (number(least=0, most=1), "a finite number >= 0 and <= 1", [-0.1, 1.1]),
    (number(above=0), "a finite number > 0", [0, 0.0, -0.0, -1, False, math.inf]),
    (number(above=0, most=1), "a finite number > 0 and <= 1", [0, 1.0001]),
    (one_of("exponential", "linear"), "one of exponential, linear", ["exp", None, 1, ["linear"]]),
]


@pytest.mark.parametrize(("check", "wanted", "values"), REFUSED, ids=[wanted for _, wanted, _ in REFUSED])
def test_what_is_refused_is_told_what_is_wanted(check: Check, wanted: str, values: list[Any]) -> None:
    assert check.wanted == wanted
    for value in values:
        with pytest.raises(ValueError, match="must be") as raised:
            check(value)
        assert str(raised.value).startswith(f"must be {wanted}")


def test_a_slip_in_a_name_is_met_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"must be one of exponential, linear; did you mean 'linear'\?"):
        one_of("exponential", "linear")("liner")


def test_numbers_become_floats_and_integers_stay() -> None:
    assert type(number()(1)) is float
    assert type(integer(least=0)(3)) is int
    assert [type(x) for x in ascending(above=0)(OmegaConf.create([1, 2]))] == [float, float]


@dataclass
class Sample(Checked):
    method: ClassVar[str] = "sample"
    where: ClassVar[str] = "algorithm.sample"

    size: int = hyper(3, integer(least=1))
    scale: float = hyper(1, number(above=0))
    delimiter: str = hyper("\n\n", text())
    strict: bool = hyper(True, flag())
    cuts: list[float] = hyper([0.5], ascending(above=0))  # noqa: RUF009


def test_a_class_reports_its_keys_ranges_and_values() -> None:
    assert Sample.names() == ["size", "scale", "delimiter", "strict", "cuts"]
    assert Sample.defaults() == {"size": 3, "scale": 1, "delimiter": "\n\n", "strict": True, "cuts": [0.5]}
    assert Sample.ranges()["scale"] == "a finite number > 0"
    resolved = Sample(size=4, strict=False).resolved()
    assert resolved == {"size": 4, "scale": 1.0, "delimiter": "\n\n", "strict": False, "cuts": [0.5]}
    assert type(resolved["scale"]) is float  # defaults are checked as well


def test_all_faults_of_a_class_come_at_once() -> None:
    with pytest.raises(ValueError, match=r"algorithm\.sample \(Sample\) is not valid") as raised:
        Sample(size=0, scale=0, delimiter="", strict="yes", szie=1)  # type: ignore[call-arg, arg-type]
    assert str(raised.value).split("\n  - ")[1:] == [
        "unknown key 'szie'; did you mean 'size'?",
        "size=0 must be a whole number >= 1",
        "scale=0 must be a finite number > 0",
        "delimiter='' must be a string that is not empty",
        "strict='yes' must be true or false",
    ]


def test_a_default_list_belongs_to_whoever_asked_for_it() -> None:
    default = [0.8]

    @dataclass
    class Cuts(Checked):
        method: ClassVar[str] = "cuts"
        where: ClassVar[str] = "cuts"

        cuts: list[float] = hyper(default, ascending(above=0, below=1))  # noqa: RUF009

    Cuts().cuts.append(0.9)
    Cuts.defaults()["cuts"].append(0.9)
    assert Cuts.defaults()["cuts"] == Cuts().cuts == default == [0.8]
