"""A plugin of pytest for one run of the contract tests: the vLLM of the environment is read as a tested one.

The tests of the tap look some names up by version, and would otherwise fail at that instead of saying what changed.
"""

from __future__ import annotations

import dataclasses

from drift import of_tests
from verl_ext.platform.vllm_weights import EXPECTED_VLLM

sources = of_tests("tests/rollout/vllm_sources.py")
_installed = sources.installed


def installed() -> object:
    """The sources that are there, under the version whose contract is asked of them."""
    return dataclasses.replace(_installed(), version=EXPECTED_VLLM)


setattr(sources, "installed", installed)  # noqa: B010 - a plain assignment, which mypy does not take
