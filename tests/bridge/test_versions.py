"""An untested verl is refused with both versions named."""

from __future__ import annotations

import pytest

from verl_ext.bridge import versions


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(versions, "version", lambda name: {"verl": "0.10.0"}[name])
    monkeypatch.delenv(versions.OVERRIDE, raising=False)
    return monkeypatch


def test_the_installed_verl_is_a_tested_one(recwarn: pytest.WarningsRecorder) -> None:
    versions.check()
    assert len(recwarn) == 0


def test_another_verl_is_refused(newer: pytest.MonkeyPatch) -> None:
    with pytest.raises(versions.UntestedVersionError) as caught:
        versions.check()
    for part in ("tested with verl 0.9.1", "installed is verl 0.10.0", f"{versions.OVERRIDE}=1"):
        assert part in str(caught.value)


def test_the_override_turns_it_into_a_warning(newer: pytest.MonkeyPatch) -> None:
    newer.setenv(versions.OVERRIDE, "1")
    with pytest.warns(UserWarning, match=r"0\.9\.1.*0\.10\.0"):
        versions.check()


def test_only_the_value_1_overrides(newer: pytest.MonkeyPatch) -> None:
    newer.setenv(versions.OVERRIDE, "0")
    with pytest.raises(ImportError):
        versions.check()
