"""Our groups, what Hydra calls them, and the folder that they lie in."""

from __future__ import annotations

from pathlib import Path

GROUPS = ("backend", "cluster", "model", "data", "algo", "experiment")
"""Our groups in the order in which they are merged, later ones winning: what a paper decides comes last."""

# verl has a group `data` of its own, put at the package `data`, which Hydra takes for the same choice unless ours names
# its package.
_HYDRA_NAMES = {"data": "data@_global_"}


def hydra_name(group: str) -> str:
    """What Hydra calls one of our groups on its command line and in defaults lists.

    Example:
        >>> hydra_name("algo"), hydra_name("data")
        ('algo', 'data@_global_')
    """
    return _HYDRA_NAMES.get(group, group)


def config_dir() -> Path:
    """The folder with our Hydra groups: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "configs", package.parent / "configs"):
        if (candidate / "algo").is_dir():
            return candidate
    raise FileNotFoundError(f"verl_ext's configs/ is neither in {package} nor beside it: reinstall the package")
