"""What a run is, and when two are the same."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from verl_ext.run.checkpoint import identity
from verl_ext.run.checkpoint.identity import Identity, Part, changes, differences

OLD = Path(__file__).resolve().parent / "old" / "checkpoints" / "global_step_2"
HUGGINGFACE = OLD / "actor" / "huggingface"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's folder: configuration and tokenizer."""
    return Path(shutil.copytree(HUGGINGFACE, tmp_path / "model"))


def rewrite(file: Path, **changes: Any) -> None:
    """The same JSON in other lines, with some keys changed."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}, sort_keys=True, indent=7))


def test_a_model_is_its_configuration_wherever_it_lies(model: Path) -> None:
    key = identity.model_key(str(HUGGINGFACE))
    assert key is not None
    rewrite(model / "config.json", _name_or_path="elsewhere", transformers_version="0")
    assert identity.model_key(str(model)) == key
    rewrite(model / "config.json", num_hidden_layers=2)
    assert identity.model_key(str(model)) != key


def test_a_tokenizer_is_its_vocabulary_and_not_how_it_is_written(model: Path) -> None:
    key, template = identity.tokenizer_key(str(HUGGINGFACE)), identity.template_of(str(HUGGINGFACE))
    rewrite(model / "tokenizer.json", version="9")
    assert identity.tokenizer_key(str(model)) == key
    assert identity.template_of(str(model)) == template
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert identity.tokenizer_key(str(model)) == key
    assert identity.template_of(str(model)) != template
    content = json.loads((model / "tokenizer.json").read_text())
    content["model"]["vocab"]["new"] = 258
    (model / "tokenizer.json").write_text(json.dumps(content))
    assert identity.tokenizer_key(str(model)) not in (None, key)
    (model / "tokenizer.json").unlink()
    assert identity.tokenizer_key(str(model)) is None
    (model / "vocab.json").write_text("{}")
    slow = identity.tokenizer_key(str(model))
    (model / "merges.txt").write_text("a b")
    assert identity.tokenizer_key(str(model)) not in (None, slow)


def test_a_model_of_the_hub_is_looked_up_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert identity.model_key("some/model") is None
    cached = tmp_path / "models--some--model"
    shutil.copytree(HUGGINGFACE, cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    assert identity.model_key("some/model") == identity.model_key(str(HUGGINGFACE))
    assert identity.model_key("some/other") is None
    assert identity.model_key("/absent/folder") is None


def test_data_are_their_content_and_a_file_that_was_not_touched_is_not_read_again(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    file.write_bytes(b"content")
    before = file.stat().st_mtime_ns
    (seen,) = (first := identity.files_seen([str(file)], {}) or {}).values()
    # sha256sum of the seven letters.
    assert seen[2] == "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    os.utime(file, ns=(before, before + 1))
    touched = identity.files_seen([str(file)], first)
    assert touched == {str(file): [7, before + 1, seen[2]]}
    file.write_bytes(b"CONTENT")
    os.utime(file, ns=(before, before + 2))
    changed = identity.files_seen([str(file)], first)
    assert changed is not None
    assert changed[str(file)][2] != seen[2]
    # The price of not reading it: who sets the clock back is not found out.
    os.utime(file, ns=(before, before))
    assert identity.files_seen([str(file)], first) == first
    assert identity.files_seen([str(file), str(tmp_path / "absent")], first) is None


THEN = Identity({name: Part(f"its {name}", f"{name} 1", {"x": 1}) for name in identity.REFUSED})


def with_part(name: str, part: Part) -> Identity:
    return replace(THEN, parts={**THEN.parts, name: part})


@pytest.mark.parametrize("name", identity.REFUSED)
def test_each_part_alone_makes_another_run(name: str) -> None:
    assert differences(THEN, THEN) == []
    other = with_part(name, Part("another", "2", {"x": 2}))
    (found,) = differences(THEN, other)
    assert found.startswith(f"{name}: its {name} (content {name} 1"[:20])
    assert found.endswith("in the checkpoint, another (content 2...) in this run")
    assert differences(THEN, other, sure=True) == [found]
    assert changes(THEN, other) == []  # its settings are another thing's
    assert differences(THEN, with_part(name, Part("renamed", f"{name} 1"))) == []


def test_what_cannot_be_looked_into_is_compared_by_name_and_only_at_last() -> None:
    for name, found in (("its data", 0), ("others", 1)):
        unknown = with_part("data", Part(name))
        for pair in ((THEN, unknown), (unknown, THEN)):
            assert len(differences(*pair)) == found
            assert differences(*pair, sure=True) == []


def test_settings_are_told_one_by_one() -> None:
    other = with_part("loss", Part("its loss", "loss 1", {"x": 1, "alpha": 0.02}))
    assert changes(THEN, other) == ["loss alpha None -> 0.02"]
    assert changes(other, THEN) == ["loss alpha 0.02 -> None"]


def test_a_list_of_files_keeps_it_and_an_older_list_has_none(tmp_path: Path) -> None:
    content = json.loads((OLD / "verl_ext.manifest.json").read_text())
    assert identity.of_checkpoint(OLD) is None
    assert identity.of_checkpoint(tmp_path) is None
    whole = replace(THEN, files={"/a": [1, 2, "3"]})
    (tmp_path / "verl_ext.manifest.json").write_text(json.dumps({**content, "identity": whole.as_json()}))
    assert identity.of_checkpoint(tmp_path) == whole
