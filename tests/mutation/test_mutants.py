"""Each mutant still fits at one place of the package, and names tests that are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutation.mutants import MUTANTS, Mutant, apply, places


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_fits_at_one_place(mutant: Mutant, pytestconfig: pytest.Config) -> None:
    assert len(places(mutant, pytestconfig.rootpath)) == 1
    assert all((pytestconfig.rootpath / test.partition("::")[0]).is_file() for test in mutant.tests)


def test_a_mutant_is_found_by_its_symbol_wherever_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "verl_ext" / "deep" / "er.py"
    file.parent.mkdir(parents=True)
    source = "x = 1\n\n\nclass A:\n    def f(self):\n        x = 1\n        return x\n\n\ndef f():\n    x = 1\n"
    file.write_text(source)
    assert apply(Mutant("A.f", "x = 1", "x = 2"), tmp_path) == (file, source)
    assert file.read_text() == source.replace("        x = 1", "        x = 2")
    for symbol, old in (("g", "x = 1"), ("f", "y = 1"), ("A", "x")):
        with pytest.raises(LookupError, match="must fit at one place"):
            apply(Mutant(symbol, old, ""), tmp_path)
