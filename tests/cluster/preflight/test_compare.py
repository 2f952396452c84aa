"""Wanted against found, with made clusters: which line each fault gives, and that a healthy one gives none."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.cluster.preflight.made import GIB, SEEN, WANTED, cluster, faults, node, seen
from verl_ext.cluster.preflight import Found, compare
from verl_ext.cluster.preflight.finding import succeeded
from verl_ext.cluster.preflight.placement import unplaced
from verl_ext.cluster.preflight.wanted import Group


def test_a_healthy_cluster_has_neither_fault_nor_warning() -> None:
    findings = compare(WANTED, cluster())
    assert succeeded(findings)
    assert faults(findings) + faults(findings, "warn") == []
    checks = {finding.check for finding in findings}
    assert {"Ray", "GPUs", "CPUs", "placement groups", "clock skew", "memory", "object store", "/dev/shm"} <= checks
    assert {"ulimit: open files", "ulimit: processes", "ulimit: locked memory", "checkpoint disk"} <= checks
    assert {"python", "vllm", "torch", "verl", "plugin", "model", "data"} <= checks


def test_what_was_found_survives_json() -> None:
    found = cluster(node("10.0.0.1", seen=None, fault="gone", clock=None), dead=1, placed=None)
    assert Found.from_data(json.loads(found.to_json())) == found


def test_unreachable_is_one_line() -> None:
    findings = compare(WANTED, Found("10.0.0.1:6379", error="nothing answers: timed out"))
    (line,) = faults(findings)
    assert line.startswith("Ray: wanted reachable at 10.0.0.1:6379, found nothing answers: timed out")
    assert len(findings) == 1


def test_not_enough_gpus_names_both_numbers_and_each_node() -> None:
    small = node("10.0.0.2", total={"GPU": 4.0, "CPU": 64.0}, free={"GPU": 4.0, "CPU": 64.0})
    found = faults(compare(WANTED, cluster(second=small, placed=None)))
    # 8 + 4 = 12 of 2 * 8 = 16.
    assert found[0].startswith("GPUs: wanted 16, found 12, 12 free (10.0.0.1: 8, 10.0.0.2: 4)")
    assert "no node for 1 of them (training: 8 GPUs and 24 CPUs)" in found[1]
    assert "10.0.0.2 has 4 GPUs, 64 CPUs" in found[1]
    assert len(found) == 2


def test_enough_gpus_in_all_but_on_too_many_nodes() -> None:
    room = {"GPU": 4.0, "CPU": 64.0}
    four = [node(f"10.0.0.{index}", total=room, free=room) for index in range(1, 5)]
    (line,) = faults(compare(WANTED, cluster(nodes=four, placed=None)))
    assert line.startswith("placement groups: wanted 2 x (8 GPUs, 24 CPUs on one node), found no node for 2 of them")
    assert "no node is large enough" in line


def test_gpus_that_others_hold() -> None:
    busy = node("10.0.0.2", free={"GPU": 6.0, "CPU": 64.0})
    found = faults(compare(WANTED, cluster(second=busy, placed=None)))
    assert found[0].startswith("GPUs: wanted 16, found 16, 14 free")
    assert "others hold them" in found[0]
    assert "others hold the resources" in found[1]


def test_too_few_cpus_for_the_bundles_although_the_sum_suffices() -> None:
    # 3 CPUs a GPU: 24 on a node; the nodes have 100 and 16, wanted in all 2 * 24 + 11 = 59.
    first = node("10.0.0.1", total={"GPU": 8.0, "CPU": 100.0}, free={"GPU": 8.0, "CPU": 100.0})
    second = node("10.0.0.2", total={"GPU": 8.0, "CPU": 16.0}, free={"GPU": 8.0, "CPU": 16.0})
    (line,) = faults(compare(WANTED, cluster(first, second, placed=None)))
    assert "10.0.0.2 has 8 GPUs, 16 CPUs" in line


def test_cpus_beside_the_bundles_count() -> None:
    room = {"GPU": 8.0, "CPU": 29.0}
    found = faults(compare(WANTED, cluster(*(node(f"10.0.0.{n}", total=room, free=room) for n in (1, 2)))))
    assert found == [
        "CPUs: wanted 59, found 58, 58 free (10.0.0.1: 29, 10.0.0.2: 29); verl would wait for ever; add nodes, or ask "
        "for fewer CPUs"
    ]


def test_ray_itself_has_the_last_word_on_placement() -> None:
    (line,) = faults(compare(WANTED, cluster(placed=False)))
    assert "not granted by Ray in time" in line


def test_gpus_that_only_ray_believes_in() -> None:
    (line,) = faults(compare(WANTED, cluster(second=node("10.0.0.2", seen=seen(devices=["H100"] * 7)))))
    assert line.startswith("GPUs on node 10.0.0.2: wanted 8, found 8, 8 free; nvidia-smi reports 7")


def test_another_vllm_on_one_node() -> None:
    odd = node("10.0.0.2", seen=seen(versions={**SEEN.versions, "vllm": "0.23.0"}))
    (line,) = faults(compare(WANTED, cluster(second=odd)))
    assert line.startswith("vllm on node 10.0.0.2: wanted 0.24.0, found 0.23.0, other nodes have 0.24.0")


def test_the_same_untested_version_everywhere_warns_and_a_refused_one_is_a_fault() -> None:
    def everywhere(**versions: str) -> list[str]:
        nodes = [node(f"10.0.0.{n}", seen=seen(versions={**SEEN.versions, **versions})) for n in (1, 2)]
        findings = compare(WANTED, cluster(*nodes))
        return [*faults(findings), *(f"({line.split(';')[0]})" for line in faults(findings, "warn"))]

    # verl_ext has code for vLLM 0.24 and 0.28 only; torch may be another.
    assert everywhere(torch="2.12.0") == [f"(torch on node 10.0.0.{n}: wanted 2.11.0, found 2.12.0)" for n in (1, 2)]
    assert everywhere(vllm="0.28.0") == [f"(vllm on node 10.0.0.{n}: wanted 0.24.0, found 0.28.0)" for n in (1, 2)]
    assert [line.split(";")[0] for line in everywhere(vllm="0.25.0")] == [
        f"vllm on node 10.0.0.{n}: wanted 0.24.0, found 0.25.0" for n in (1, 2)
    ]
    assert len(everywhere(verl="0.9.2")) == 2


def test_python_differs_in_its_last_number_only_as_a_fault_too() -> None:
    (line,) = faults(compare(WANTED, cluster(second=node("10.0.0.2", seen=seen(python="3.10.4")))))
    assert line.startswith("python on node 10.0.0.2: wanted 3.11, found 3.10.4, other nodes have 3.11.9")


def test_a_distribution_that_is_not_installed() -> None:
    bare = node("10.0.0.2", seen=seen(versions={**SEEN.versions, "torch": None}))
    (line,) = faults(compare(WANTED, cluster(second=bare)))
    assert line.startswith("torch on node 10.0.0.2: wanted 2.11.0, found not installed")


PLUGIN = SEEN.plugin


@pytest.mark.parametrize(
    ("plugin", "said"),
    [
        ({"error": "ModuleNotFoundError: No module named 'verl_ext'", "version": None}, "No module named 'verl_ext'"),
        ({"losses": ["espo", "vanilla"]}, "not registered: sspo; verl hides why"),
        ({"losses": [], "estimators": [], "asked": "none"}, "VERL_USE_EXTERNAL_PLUGINS=none on this node"),
        ({"version": "0.0.9", "losses": ["espo"]}, "verl_ext 0.0.9; install verl_ext 0.1.0 on all nodes"),
        ({"version": "0.0.9"}, "verl_ext 0.0.9; install verl_ext 0.1.0 on all nodes"),
    ],
)
def test_the_plugin_of_one_node(plugin: dict[str, object], said: str) -> None:
    broken = node("10.0.0.2", seen=seen(plugin={**PLUGIN, **plugin}))
    (line,) = faults(compare(WANTED, cluster(second=broken)))
    assert line.startswith("plugin on node 10.0.0.2: wanted verl_ext 0.1.0, 3 names registered, found ")
    assert said in line


def test_a_silent_node_is_a_fault_and_the_others_are_still_checked() -> None:
    silent = node("10.0.0.2", seen=None, fault="no answer in time", clock=None)
    findings = compare(WANTED, cluster(second=silent))
    (line,) = faults(findings)
    assert line.startswith("probe on node 10.0.0.2: wanted an answer, found no answer in time")
    assert {finding.node for finding in findings if finding.check == "vllm"} == {"10.0.0.1"}


@pytest.mark.parametrize(
    ("clocks", "doubt", "level", "said"),
    [
        # 40 - 0 - 2 * 0.5 = 39 s, above 30.
        ((0.0, 40.0), 0.5, "fault", "39.0 s: 10.0.0.2 is ahead of 10.0.0.1"),
        # 2 - (-3) - 2 * 0.5 = 4 s, between 1 and 30.
        ((2.0, -3.0), 0.5, "warn", "4.0 s: 10.0.0.1 is ahead of 10.0.0.2"),
        # 3 - 0 - 2 * 1.2 = 0.6 s: the readings are too slow to say more.
        ((0.0, 3.0), 1.2, "ok", "0.60 s"),
    ],
)
def test_clock_skew(clocks: tuple[float, float], doubt: float, level: str, said: str) -> None:
    nodes = (node(f"10.0.0.{n}", clock=clock, doubt=doubt) for n, clock in enumerate(clocks, 1))
    (line,) = [finding for finding in compare(WANTED, cluster(*nodes)) if finding.check == "clock skew"]
    assert (line.level, line.found) == (level, said)


def data_columns(*columns: str) -> list[str]:
    paths = [SEEN.paths[0], {**SEEN.paths[1], "columns": list(columns)}]
    return faults(compare(WANTED, cluster(second=node("10.0.0.2", seen=seen(paths=paths)))))


def test_missing_data_columns_are_named_with_those_there_are() -> None:
    (line,) = data_columns("prompt", "question", "reward_model", "reward_model.style")
    assert line.startswith("data on node 10.0.0.2: wanted data.train_files with prompt, data_source, reward_model")
    assert "without data_source, reward_model.ground_truth (it has prompt, question, reward_model)" in line
    (line,) = data_columns("prompt", "data_source")
    assert "without reward_model (it has prompt, data_source)" in line


def test_a_path_that_only_one_node_lacks() -> None:
    paths = [{**SEEN.paths[0], "path": "models/m", "fault": "no such folder", "parameters": None}, SEEN.paths[1]]
    (line,) = faults(compare(WANTED, cluster(second=node("10.0.0.2", seen=seen(paths=paths)))))
    assert line.startswith(
        "model on node 10.0.0.2: wanted actor_rollout_ref.model.path, found models/m: no such folder"
    )
    assert "relative paths count from /home/ray" in line


def test_a_name_on_a_hub_is_only_noted() -> None:
    paths = [{**SEEN.paths[0], "path": "Qwen/Qwen2.5-7B", "hub": True, "parameters": None}, SEEN.paths[1]]
    findings = compare(WANTED, cluster(second=node("10.0.0.2", seen=seen(paths=paths))))
    assert succeeded(findings)
    assert "Qwen/Qwen2.5-7B: on a hub or behind a protocol, not looked at" in [finding.found for finding in findings]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        # One checkpoint of 10^9 parameters has 12 * 10^9 bytes; two are 22.35 GiB, and 1 GiB beside.
        ({"disk": {**SEEN.disk, "free": 23.3 * GIB}}, "checkpoint disk on node 10.0.0.2: wanted 23.4 GiB free"),
        ({"disk": {**SEEN.disk, "writable": False}}, "checkpoint disk on node 10.0.0.2"),
        # 2 GiB + 4 bytes * 10^9 / 2 nodes = 3.86 GiB.
        ({"memory": 3.8 * GIB}, "memory on node 10.0.0.2: wanted at least 3.9 GiB, found 3.8 GiB free"),
        ({"shared_memory": 64 * 2**20}, "/dev/shm on node 10.0.0.2: wanted at least 1.0 GiB, found 64 MiB free"),
        ({"limits": {**SEEN.limits, "open_files": 1024}}, "ulimit: open files on node 10.0.0.2: wanted 65536"),
        ({"limits": {**SEEN.limits, "processes": 1024}}, "ulimit: processes on node 10.0.0.2: wanted 32768"),
    ],
)
def test_what_one_machine_lacks(change: dict[str, object], line: str) -> None:
    (found,) = faults(compare(WANTED, cluster(second=node("10.0.0.2", seen=seen(**change)))))
    assert found.startswith(line)


def test_disk_and_memory_that_just_suffice() -> None:
    enough = seen(disk={**SEEN.disk, "free": 23.4 * GIB}, memory=3.9 * GIB)
    assert succeeded(compare(WANTED, cluster(second=node("10.0.0.2", seen=enough))))


def test_limits_that_may_do_only_warn() -> None:
    limits = {"open_files": 20000, "locked_memory": 8 * 2**20, "processes": 10000}
    findings = compare(WANTED, cluster(second=node("10.0.0.2", seen=seen(limits=limits))))
    assert succeeded(findings)
    checks = [finding.check for finding in findings if finding.level == "warn"]
    assert checks == ["ulimit: open files", "ulimit: processes", "ulimit: locked memory"]


def test_one_machine_without_ray_for_a_run_on_two() -> None:
    room = {"GPU": 16.0, "CPU": 128.0}
    alone = Found("local", nodes=[node("here", total=room, free=room, seen=seen(devices=["H100"] * 16))])
    (line,) = faults(compare(WANTED, alone))
    assert line.startswith("nodes: wanted 2, found 1, and no Ray; start Ray on all of them")
    assert succeeded(compare(replace(WANTED, nodes=1), alone))


def test_resources_that_a_running_cluster_refuses() -> None:
    (line,) = faults(compare(replace(WANTED, starting_only=("num_cpus",)), cluster()))
    assert "found ray_kwargs.ray_init.num_cpus set; set them to null" in line


def test_large_groups_are_placed_before_small_ones() -> None:
    groups = (Group("reward model", 2, 4, 3), Group("training", 1, 8, 3))
    room = {"GPU": 8.0, "CPU": 64.0}
    two = cluster(*(node(f"10.0.0.{n}", total=room, free=room) for n in (1, 2)))
    assert succeeded(compare(replace(WANTED, groups=groups), two))
    # 2 + 2 + 4 + 6 = 14 of 6 + 8: the 6 fills one node, the 4 and both 2 the other. Were the 2s first, they would go to
    # the node of 6 and leave the 6 no other than the node of 8, and the 4 none.
    groups = (Group("small", 2, 2, 1), Group("middle", 1, 4, 1), Group("large", 1, 6, 1))
    uneven = [{"GPU": 6.0, "CPU": 64.0}, {"GPU": 8.0, "CPU": 64.0}]
    assert unplaced(groups, uneven) == []
    tight = [{"GPU": 6.0, "CPU": 64.0}, {"GPU": 4.0, "CPU": 64.0}]
    assert [group.purpose for group in unplaced(groups, tight)] == ["small", "small"]


def test_of_two_versions_as_frequent_the_tested_one_is_right() -> None:
    odd = node("10.0.0.1", seen=seen(versions={**SEEN.versions, "vllm": "0.23.0"}))
    (line,) = faults(compare(WANTED, cluster(first=odd)))
    assert line.startswith("vllm on node 10.0.0.1: wanted 0.24.0, found 0.23.0, other nodes have 0.24.0")
