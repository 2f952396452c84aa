"""A battery of properties that any policy loss or group estimator in verl's registries can be put through.

`verl-ext conformance` runs it; docs/conformance.md says what each column states. For a method of your own, import
`declare` where you register it, if it has options to be tried or cells that its equation excludes.
"""

from verl_ext.conformance.declared import Declaration, declare

__all__ = ["Declaration", "declare"]
