"""Rows of real files that are faulty and known to be so, each with the reason; manifests report them."""

from __future__ import annotations

from verl_ext.data.problems import Exemption


def _placeholder(key: str, right: str) -> Exemption:
    reason = f"the answer -1 cannot be one of this problem; the source has the problem again, with the answer {right}"
    return Exemption(key, "exclude", reason)


EXEMPTIONS: dict[str, tuple[Exemption, ...]] = {
    "dapo_math_17k": (
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
    "olympiadbench": (
        Exemption(
            "14d5d2263d2d",
            "keep",
            "the answer is written t(0,4], for t in (0,4]; no rule reads it, and only the same text is accepted",
        ),
    ),
}
