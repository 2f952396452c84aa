"""The hub's real client on a cache that is laid out here, and without a network."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from huggingface_hub import constants

from tests.data.sources import json_lines, thirty
from verl_ext.data.manifest import to_record
from verl_ext.data.prepare import Options, prepare
from verl_ext.data.registry import datasets
from verl_ext.data.sources import Hub, SourceError, open_hub

UNCHECKED = Options(check_answers=False)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def put(cache: Path, repo: str, revision: str, file: str) -> None:
    snapshot = cache / f"datasets--{repo.replace('/', '--')}" / "snapshots" / revision
    json_lines(snapshot / file, [{"question": problem, "answer": answer} for problem, answer in thirty()])


def test_a_pinned_revision_comes_from_the_cache(cache: Path, tmp_path: Path) -> None:
    hub = datasets()["aime25"].hub
    assert hub is not None
    assert hub.revision is not None
    put(cache, hub.repo, hub.revision, "aime2025-I.jsonl")
    content = prepare("aime25", "boxed", tmp_path, options=UNCHECKED).content
    assert (content["source"], content["revision"], content["rows"]) == (hub.repo, hub.revision, 30)
    # What the hub holds could not be seen when the registry was written: no error, but marked.
    assert content["unverified"] is True
    assert content["files"] == ["aime2025-I.jsonl"]
    record = to_record(datasets()["aime25"], content)
    assert record is not None
    assert content["content_sha256"] in record
    assert "Hub(" not in record


def test_without_a_pin_the_newest_revision_is_resolved_and_printed(cache: Path, tmp_path: Path) -> None:
    newest = "a" * 40
    hub = datasets()["amc23"].hub
    assert hub is not None
    assert hub.revision is None
    put(cache, hub.repo, newest, "test.jsonl")

    reference = cache / f"datasets--{hub.repo.replace('/', '--')}" / "refs" / "main"
    reference.parent.mkdir(parents=True)
    reference.write_text(newest)
    options = Options(check_answers=False, accept_unverified=True)
    content = prepare("amc23", "boxed", tmp_path, options=options).content
    assert content["revision"] == newest
    record = to_record(datasets()["amc23"], content)
    assert record is not None
    assert f'Hub("{hub.repo}", "{newest}", ...)' in record


@pytest.mark.parametrize("name", ["aime24", "amc23"])
def test_without_a_network_the_error_says_what_to_do(cache: Path, name: str) -> None:
    hub = datasets()[name].hub
    assert hub is not None
    with pytest.raises(SourceError, match=f"{hub.repo} at revision .* cannot be had .*--from"):
        open_hub(hub)


def test_a_hub_that_does_not_answer_is_one_message_and_no_stack_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise httpx.ConnectError("[Errno -2] Name or service not known")

    monkeypatch.setattr("huggingface_hub.snapshot_download", nobody)
    with pytest.raises(SourceError, match=r"some/set at revision main .*ConnectError.* --from"):
        open_hub(Hub("some/set", None, ("rows.parquet",)))
