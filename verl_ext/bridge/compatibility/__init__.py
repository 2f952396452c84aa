"""What of verl works with our methods, what is refused, and what nobody ran; docs/compatibility.md is made from it."""

from typing import Any

from verl_ext.bridge.compatibility import silent, unread


def faults(config: Any) -> list[str]:
    """Settings that would be ignored, or that are silently wrong, as sentences."""
    return [*silent.faults(config), *unread.faults(config)]


__all__ = ["faults"]
