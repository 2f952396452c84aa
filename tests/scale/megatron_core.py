"""Where Megatron is found: in the environment, or in a folder beside the environment's own packages.

In the environment's packages it would be imported by every process of every run, 3 s of a core each: verl imports
its Megatron engine wherever it can.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import sysconfig
from pathlib import Path

HOME = Path(sysconfig.get_paths()["data"]) / "megatron"


def find_megatron() -> bool:
    """Whether `import megatron.core` works, from `HOME` if from nowhere else."""
    if importlib.util.find_spec("megatron") is None and HOME.is_dir():
        sys.path.append(str(HOME))
        importlib.invalidate_caches()
    return importlib.util.find_spec("megatron") is not None
