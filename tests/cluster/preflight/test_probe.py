"""What the probe sees on a machine, piece by piece."""

from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from verl_ext.checks import probe


def test_the_parquet_columns_go_one_level_deep(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    row = {"prompt": [{"role": "user", "content": "1+1"}], "reward_model": {"ground_truth": "2"}, "data_source": "x"}
    pq.write_table(pa.Table.from_pylist([row]), file)
    found = probe.data(str(file))
    assert found["fault"] is None
    assert sorted(found["columns"]) == ["data_source", "prompt", "reward_model", "reward_model.ground_truth"]


def test_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text('{"prompt": "p", "reward_model": {"ground_truth": "2"}}\n{"other": 1}\n')
    assert probe.data(str(file))["columns"] == ["prompt", "reward_model", "reward_model.ground_truth"]


def test_data_that_verl_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_text("not parquet")
    (tmp_path / "data.csv").write_text("a,b\n")
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    assert "cannot be read" in probe.data(str(tmp_path / "bad.parquet"))["fault"]
    assert "verl reads .parquet" in probe.data(str(tmp_path / "data.csv"))["fault"]
    assert "no rows" in probe.data(str(tmp_path / "empty.parquet"))["fault"]
    assert probe.data(str(tmp_path / "absent.parquet"))["fault"] == "no such file"
    assert probe.data("hdfs://host/x.parquet") == {
        "path": "hdfs://host/x.parquet", "fault": None, "columns": [], "hub": True,
    }  # fmt: skip


def write_weights(file: Path, shapes: dict[str, list[int]]) -> None:
    head: dict[str, Any] = {name: {"dtype": "F32", "shape": shape} for name, shape in shapes.items()}
    content = json.dumps({"__metadata__": {"format": "pt"}, **head}).encode()
    file.write_bytes(struct.pack("<Q", len(content)) + content)


def test_parameters_are_counted_from_the_heads_of_all_shards(tmp_path: Path) -> None:
    write_weights(tmp_path / "model-1.safetensors", {"a": [3, 5], "b": [7]})
    write_weights(tmp_path / "model-2.safetensors", {"c": [2, 2, 2], "scalar": []})
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    # 3 * 5 + 7 + 2 * 2 * 2 + 1
    assert probe.model(str(tmp_path))["parameters"] == 31


def test_a_model_folder_without_its_parts(tmp_path: Path) -> None:
    assert probe.model(str(tmp_path))["fault"] == "without config.json, a tokenizer, weights"
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    assert "cannot be read" in probe.model(str(tmp_path))["fault"]
    assert probe.model(str(tmp_path / "absent"))["fault"] == "no such folder"


@pytest.mark.parametrize(
    ("path", "hub"),
    [
        ("Qwen/Qwen2.5-7B", True),
        ("gpt2", True),
        ("hdfs://host/model", True),
        ("outputs/models/tiny", False),
        ("./models/tiny", False),
        ("/models/tiny", False),
    ],
)
def test_names_on_a_hub(path: str, hub: bool) -> None:
    assert probe.is_hub_name(path) is hub


def test_the_container_limits_the_memory(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       2000 kB\nMemAvailable:   1000 kB\n")
    assert probe.free_memory(str(meminfo), str(tmp_path)) == 1000 * 1024
    (tmp_path / "memory.max").write_text("900000\n")
    (tmp_path / "memory.current").write_text("200000\n")
    assert probe.free_memory(str(meminfo), str(tmp_path)) == 700000
    (tmp_path / "memory.max").write_text("max\n")
    assert probe.free_memory(str(meminfo), str(tmp_path)) == 1000 * 1024


def test_disk_space_of_a_folder_to_come(tmp_path: Path) -> None:
    found = probe.disk(str(tmp_path / "run" / "checkpoints"))
    assert found["free"] > 0
    assert found["writable"]
    assert found["folder"] == str(tmp_path / "run" / "checkpoints")
    (tmp_path / "file").write_text("")
    assert not probe.disk(str(tmp_path / "file" / "checkpoints"))["writable"]


def test_the_probe_travels_to_a_process_without_verl_ext(tmp_path: Path) -> None:
    cloudpickle.register_pickle_by_value(probe)
    try:
        sent = cloudpickle.dumps([probe.look, probe.plugin])
    finally:
        cloudpickle.unregister_pickle_by_value(probe)
    (tmp_path / "verl.py").write_text("raise ImportError('planted')")
    (tmp_path / "verl_ext.py").write_text("raise ImportError('planted')")
    ask = {"distributions": ["pip", "no-such"], "models": {}, "data": {}, "files": {}, "checkpoints": None}
    program = (
        f"import json, pickle, sys; look, plugin = pickle.loads({sent!r}); "
        f"print(json.dumps({{**look({ask!r}), 'plugin': plugin()}})); assert 'verl_ext' not in sys.modules"
    )
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["plugin"]["error"] == "ImportError: planted"
    assert found["versions"]["no-such"] is None
    assert found["limits"].keys() == {"open_files", "locked_memory", "processes"}
    assert len(pickle.dumps(sent)) < 50_000
