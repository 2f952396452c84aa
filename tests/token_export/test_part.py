"""The rows of a step that a rank writes, and the settings of the export."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_ext import batch_file
from verl_ext.run.token_export.part import Part, Request, choose, token_texts
from verl_ext.run.token_export.settings import TokenExportSettings
from verl_ext.toy.models import build_tokenizer

KEYS = [f"u{prompt}_{session}_0" for prompt in range(6) for session in range(4)]


def request(folder: Path, **changes) -> Request:
    return Request(**{"folder": str(folder), "step": 4, "update": 0, "max_rows": None, "run": "p/e", **changes})


# --- which rows


@given(st.permutations(KEYS), st.integers(1, 30))
def test_the_same_groups_are_chosen_whatever_the_order(keys: list[str], limit: int) -> None:
    found = choose(keys, limit)
    assert found == choose(KEYS, limit)
    assert len(found) == min(limit, len(KEYS))
    sizes = [sum(key.startswith(f"u{prompt}_") for key in found) for prompt in range(6)]
    assert sum(0 < size < 4 for size in sizes) <= 1, sizes  # all groups but one are whole or absent


def test_ranks_that_share_groups_choose_the_same_ones() -> None:
    """Each rank has half of each group; 4 of 12 rows are two halves, of the same groups."""
    one, other = choose(KEYS[::2], 4), choose(KEYS[1::2], 4)
    assert len(one) == len(other) == 4
    assert {key.split("_")[0] for key in one} == {key.split("_")[0] for key in other}


def test_without_a_limit_all_rows_are_chosen_and_padding_never_is(tmp_path: Path) -> None:
    assert choose(KEYS, None) == set(KEYS)
    assert Part(request(tmp_path), 0, ["", "u_0_0", ""]).chosen == {"u_0_0"}


# --- the file


def test_a_part_has_the_columns_that_every_row_has_and_its_tokens_as_text(tmp_path: Path) -> None:
    part = Part(request(tmp_path, update=2), 3, ["u_0_0", "u_1_0"])
    part.tokenizer, part.about = build_tokenizer(), {"loss": "espo", "hyper_parameters": {"path": Path("/a")}}
    part.mini_batch = 1
    part.add({"key": "u_0_0", "prompts": [104, 105], "responses": [33], "entropy": [0.5]})
    part.add({"key": "u_1_0", "prompts": [104], "responses": [97, 98]})
    part.write()
    (path,) = tmp_path.rglob("*.parquet")
    assert path.relative_to(tmp_path).as_posix() == "step-00004/rank-00003-2.parquet"
    found = batch_file.read(path)
    assert found.about == {"loss": "espo", "hyper_parameters": {"path": "/a"}, "run": "p/e"}
    assert "entropy" not in found.columns  # only one row has it
    assert found.columns["mini_batch"] == [1, 1]
    assert found.columns["rank"] == [3, 3]
    texts = [part.tokenizer.decode(ids) for ids in ([33], [97, 98])]
    assert found.columns["response_text"] == texts
    assert ["".join(row) for row in found.columns["tokens"]] == texts  # of a byte a token
    assert [len(row) for row in found.columns["tokens"]] == [1, 2]


def test_without_a_tokenizer_there_is_no_text(tmp_path: Path) -> None:
    part = Part(request(tmp_path), 0, ["u_0_0"])
    part.add({"key": "u_0_0", "responses": [33]})
    assert set(part.columns()) == {"key", "responses", "mini_batch", "rank"}


def test_a_part_without_rows_is_no_file(tmp_path: Path) -> None:
    Part(request(tmp_path), 0, ["u_0_0"]).write()
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fails_is_reported_and_the_run_goes_on(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    part = Part(request(tmp_path / "file"), 0, ["u_0_0"])
    part.add({"key": "u_0_0"})
    part.write()
    assert "the tokens of step 4 are not exported: " in capsys.readouterr().err


def test_each_token_is_decoded_once() -> None:
    class Tokenizer:
        calls = 0

        def decode(self, ids: list[int]) -> str:
            self.calls += 1
            return f"<{ids[0]}>"

    tokenizer = Tokenizer()
    of = token_texts(tokenizer)
    assert [of(7), of(8), of(7)] == ["<7>", "<8>", "<7>"]
    assert tokenizer.calls == 2


def test_a_request_survives_its_way_to_the_workers(tmp_path: Path) -> None:
    sent = request(tmp_path, max_rows=5)
    assert Request.read(sent.text()) == sent
    assert sent.path(1) == tmp_path / "step-00004" / "rank-00001.parquet"


# --- settings


def test_the_export_is_off_unless_asked_for() -> None:
    assert TokenExportSettings().resolved() == {"every": 0, "dir": None, "max_rows": 256}
    assert TokenExportSettings(every=10, max_rows=None, dir="there").max_rows is None


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"every": -1}, "every=-1 must be a whole number >= 0"),
        ({"every": 1, "max_rows": 0}, "max_rows=0 must be null or a whole number >= 1"),
        ({"dir": "x"}, "dir=x does nothing with every=0"),
        ({"max_rows": 8}, "max_rows=8 does nothing with every=0"),
        ({"evry": 1}, "did you mean 'every'"),
    ],
)
def test_what_is_no_setting_is_refused(given: dict, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        TokenExportSettings(**given)
