"""The versions of verl that the bridge has been tested with."""

from __future__ import annotations

import os
import warnings
from importlib.metadata import version

TESTED_VERL = ("0.9.1",)
OVERRIDE = "VERL_EXT_ALLOW_UNTESTED_VERL"


class UntestedVersionError(ImportError):
    """The installed verl is not one whose internals the bridge was tested with."""


def check() -> None:
    """Refuse an untested verl, naming both versions.

    Raises:
        UntestedVersionError: unless ``VERL_EXT_ALLOW_UNTESTED_VERL=1``, which turns it into a warning.
    """
    found = version("verl")
    if found in TESTED_VERL:
        return
    text = f"verl_ext was tested with verl {', '.join(TESTED_VERL)}; installed is verl {found}"
    if os.environ.get(OVERRIDE) == "1":
        warnings.warn(f"{text}. Going on because {OVERRIDE}=1.", stacklevel=2)
        return
    raise UntestedVersionError(f"{text}. Install a tested version, or set {OVERRIDE}=1 to go on at your own risk.")
