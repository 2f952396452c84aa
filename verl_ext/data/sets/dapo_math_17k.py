"""DAPO-Math-17k."""

from verl_ext.data.dataset import STEER, Dataset, Known
from verl_ext.data.problems import Exemption
from verl_ext.data.sources import Hub


def _placeholder(key: str, right: str) -> Exemption:
    reason = f"the answer -1 cannot be one of this problem; the source has the problem again, with the answer {right}"
    return Exemption(key, "exclude", reason)


SET = Dataset(
    "dapo_math_17k",
    "DAPO-Math-17k",
    "train",
    "dapo",
    Hub("BytedTsinghua-SIA/DAPO-Math-17k", None, ("data/dapo-math-17k.parquet",)),
    problems=17_188,
    known=(
        Known(
            f"{STEER}, DAPO-Math-17k.parquet, 17,398 rows",
            "aa4ffc285acd640f33d1e11be4f34ecf71165e1676afb12976a72dd3964717b5",
        ),
    ),
    note="The hub's file repeats every row about a hundred times; a fifth of the problems is in Chinese.",
    validation="aime24",
    exemptions=(
        _placeholder("8afe3a5d3569", "554"),
        _placeholder("cc18a8e4c0f0", "230"),
        _placeholder("e2f3a9555b5b", "683"),
        _placeholder("2096771f5706", "913"),
        Exemption(
            "a83157cf18f2",
            "exclude",
            "the answer is 30, which the source has too: the product of the units modulo n is -1 exactly for n = 2, 4, "
            "p^k and 2p^k with an odd prime p, and 30 such numbers lie from 2 to 50; this row says 12",
        ),
    ),
)
