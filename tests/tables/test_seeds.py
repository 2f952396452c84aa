"""What a seed sets: two seeds differ wherever verl reads one, and one seed draws the same problems each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from verl_ext.recipe_files.recipe import find_table
from verl_ext.tables.job import Job

ROWS = {"fsdp": "tepo/table1/tepo_7b", "megatron": "espo/table1/espo", "sft": "erpo/table1/sft_7b"}


def job(reference: str, seed: int) -> Job:
    table = find_table(reference.rpartition("/")[0])
    return Job(table, table.by_name[reference.rpartition("/")[2]], seed)


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict) or not node:
        return {prefix.removesuffix("."): node}
    return {path: leaf for key, value in node.items() for path, leaf in flat(value, f"{prefix}{key}.").items()}


@pytest.mark.parametrize("backend", ROWS)
def test_every_seed_of_the_configuration_is_the_rows(backend: str) -> None:
    first, second = (job(ROWS[backend], seed) for seed in (11, 12))
    before, after = flat(first.config()), flat(second.config())
    seeds = {key for key, value in before.items() if key.rpartition(".")[2] in ("seed", "data_loader_seed")}
    follow = {key for key in seeds if str(before[key]).startswith("${")}
    assert {before[key] for key in seeds - follow} == {11}
    assert {after[key] for key in seeds - follow} == {12}
    assert all("_seed" in before[key] or ".seed" in before[key] for key in follow)
    assert {key for key in before if before[key] != after[key]} == seeds - follow
    assert first.config_hash != second.config_hash


def test_an_override_may_choose_another_backend() -> None:
    found = job(ROWS["fsdp"], 5)
    other = Job(found.table, found.row, 5, found.places, ("backend=megatron",))
    assert other.config()["actor_rollout_ref"]["actor"]["megatron"]["seed"] == 5


def drawn(tmp_path: Path, seed: int) -> list[int]:
    """Which problems a training of TEPO gets, and in which order, by verl's own data set and sampler."""
    from verl.trainer.ppo.utils import create_rl_sampler
    from verl.utils.dataset.rl_dataset import RLHFDataset

    config = OmegaConf.create({"data": job(ROWS["fsdp"], seed).config()["data"]}).data
    assert config.train_max_samples == 5120
    config.filter_overlong_prompts = False
    config.cache_dir = str(tmp_path / "copies")
    data = RLHFDataset(str(tmp_path / "train.parquet"), None, config, max_samples=20)
    problems = data.dataframe["problem"]
    return [problems[index] for index in create_rl_sampler(config, data)]


def test_a_seed_draws_the_same_problems_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    pq.write_table(pa.table({"problem": list(range(200))}), tmp_path / "train.parquet")
    first, again, other = drawn(tmp_path, 1), drawn(tmp_path, 1), drawn(tmp_path, 2)
    assert len(set(first)) == 20
    assert first == again
    assert set(first) != set(other)
