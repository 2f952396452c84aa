"""Declared exceptions: `property`, `property:part`, or `property[option=value|value,option=value]` -> reason.

`*` in place of a property stands for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_KEY = re.compile(r"(?P<property>\w+|\*)(:(?P<part>\w+))?(\[(?P<condition>[^\]]*)\])?")


class Exemptions:
    """The exceptions of one method that concern one property.

    Attributes:
        reasons: what is left out -> why; an empty text stands for all cases.
        all_cases: whether nothing is left to test.

    Example:
        >>> exemptions = Exemptions({"sign[ratio=prefix|none]": "equation 5"}, "sign")
        >>> exemptions.excludes({"ratio": "none"}), exemptions.excludes({"ratio": "token"})
        (True, False)
    """

    def __init__(self, exempt: Mapping[str, str], key: str) -> None:
        self.reasons: dict[str, str] = {}
        self._conditions: list[dict[str, list[str]]] = []
        for text, reason in exempt.items():
            name, part, condition = parse(text)
            if name not in (key, "*"):
                continue
            self.reasons[part or condition] = reason
            if not part:
                self._conditions.append(_alternatives(condition))
        self.all_cases = {} in self._conditions
        if self.all_cases:
            self.reasons = {"": self.reasons[""]}

    def excludes(self, facts: Mapping[str, Any]) -> bool:
        """Whether a case with these choices is left out."""
        return any(
            all(str(facts.get(option)) in values for option, values in condition.items())
            for condition in self._conditions
        )


def parse(text: str) -> tuple[str, str, str]:
    """Property, part and condition of a key.

    Raises:
        ValueError: the key has another form.
    """
    match = _KEY.fullmatch(text)
    if match is None:
        raise ValueError(f"exempt key {text!r} is not `property`, `property:part` or `property[option=value]`")
    return match["property"], match["part"] or "", match["condition"] or ""


def _alternatives(condition: str) -> dict[str, list[str]]:
    pairs = (item.partition("=") for item in condition.split(",") if item)
    return {option.strip(): values.split("|") for option, _, values in pairs}
