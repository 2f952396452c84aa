"""A battery of properties that any policy loss or group estimator in verl's registries can be put through.

`verl-ext conformance` runs it; docs/conformance.md says what each column states. For a method of your own, import
`declare` where you register it, if it has options to be tried, cells that its equation excludes, or a clip form;
`bounded` and `log_ratio` are for a form of your own.
"""

from verl_ext.conformance.clip_forms import bounded, log_ratio
from verl_ext.conformance.declared import Declaration, declare

__all__ = ["Declaration", "bounded", "declare", "log_ratio"]
