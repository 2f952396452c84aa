"""Each hook is installed once, whoever comes first: verl, which loads its plugins, or somebody who calls us."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNT = """
import sys
import wrapt

registered = []
original = wrapt.register_post_import_hook
wrapt.register_post_import_hook = lambda hook, module: registered.append(module) or original(hook, module)
from verl_ext.bridge.install import HOOKS, install
install()
import verl
install()
assert "verl.protocol" in sys.modules
assert len(registered) == len(HOOKS), registered
"""


def test_every_hook_is_installed_once() -> None:
    """By somebody who calls us before verl, which loads its plugins while we need something of it."""
    subprocess.run([sys.executable, "-c", COUNT], check=True, timeout=120)


def test_a_failed_installation_can_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from verl_ext.bridge import install, versions

    def refuse() -> None:
        raise versions.UntestedVersionError("planted")

    monkeypatch.setattr(install, "_installed", False)
    monkeypatch.setattr(versions, "check", refuse)
    for _ in range(2):
        with pytest.raises(versions.UntestedVersionError):
            install.install()
