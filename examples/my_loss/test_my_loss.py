from pathlib import Path

from verl_ext.conformance.command import Request, console, run


def test_it_has_the_properties_of_a_policy_loss(tmp_path: Path) -> None:
    assert run(Request(["my_loss"], imports=["my_loss"], folder=tmp_path), console()) == 0
