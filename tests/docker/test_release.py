"""What a release tells in several places is the same in all of them."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

import pytest
import yaml

from tests.docker.dockerfiles import ROOT, project

REQUIRED = ("cff-version", "message", "title", "authors")
KNOWN = {*REQUIRED, "abstract", "keywords", "license", "type", "version", "date-released"}


def citation_faults(cff: dict[str, Any]) -> list[str]:
    """What of the Citation File Format 1.2.0 (its required keys, and the ones we use) a file breaks."""
    found = [f"{key} is missing" for key in REQUIRED if not cff.get(key)]
    found += [f"{key} is not a key that we use" for key in cff if key not in KNOWN]
    if cff.get("cff-version") != "1.2.0":
        found.append("cff-version is not 1.2.0")
    for author in cff.get("authors", []):
        if not ({"name"} == set(author) or {"family-names", "given-names"} <= set(author)):
            found.append(f"an author is an entity with a name or a person with two: {author}")
    if not isinstance(cff.get("date-released", date.min), date):
        found.append("date-released is no date")
    return found


def citation() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_citation_is_valid_and_tells_what_the_project_tells() -> None:
    cff = citation()
    assert citation_faults(cff) == []
    assert str(cff["version"]) == project("version")
    assert cff["license"] == project("license")
    assert cff["title"].startswith(project("name"))
    assert cff["type"] == "software"


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("authors", [], "authors is missing"),
        ("authors", [{"family-names": "A"}], "an author is"),
        ("cff-version", "1.1.0", "not 1.2.0"),
        ("licence", "MIT", "licence is not a key"),
        ("date-released", "soon", "no date"),
    ],
)
def test_faults_of_a_citation_are_seen(key: str, value: object, fault: str) -> None:
    (found,) = citation_faults({**citation(), key: value})
    assert fault in found


def test_the_changelog_has_a_place_for_what_comes() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"(?m)^## (.*)$", text)
    assert headings[0] == "Unreleased"


def test_the_release_steps_name_what_exists() -> None:
    text = (ROOT / "docs/releasing.md").read_text()
    for path in re.findall(r"`((?:docker|verl_ext|requirements)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets
