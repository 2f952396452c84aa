"""What newer releases of verl and vLLM change of what this package uses: ``python -m drift`` (docs/drift.md)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def of_tests(path: str) -> ModuleType:
    """A helper module of ours below ``tests/``, by its file: other distributions install a package of that name too."""
    name = path.removesuffix(".py").replace("/", ".")
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]
