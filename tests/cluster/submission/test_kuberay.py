"""The RayJob manifest, against the part of KubeRay's schema that it uses."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import jsonschema
import pytest
import yaml

from verl_ext.cluster.submission.command import cpu_faults
from verl_ext.cluster.submission.environment import Environment, collect
from verl_ext.cluster.submission.job import Job, Request, prepare
from verl_ext.cluster.submission.kuberay import LONGEST_NAME, Pods, kubernetes_name, manifest, render

PODS = Pods("registry/verl-ext:0.1", ("runs:/shared",))


def of(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "additionalProperties": False, "properties": properties}


def many(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}
NAME = {"type": "string", "pattern": r"^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": LONGEST_NAME}
QUANTITIES = {
    "type": "object",
    "additionalProperties": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[KMGT]i?)?$"},
}
# Kubernetes' own: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/
REFERENCE = of(["secretKeyRef"], secretKeyRef=of(["name", "key"], name=TEXT, key=TEXT))
CONTAINER = of(
    ["name", "image", "resources"],
    name=NAME,
    image=TEXT,
    resources=of([], requests=QUANTITIES, limits=QUANTITIES),
    volumeMounts=many(of(["name", "mountPath"], name=NAME, mountPath={"type": "string", "pattern": "^/"})),
    env=many(of(["name"], name=TEXT, valueFrom=REFERENCE)),
)
VOLUME = of(
    ["name"],
    name=NAME,
    emptyDir=of([], medium={"enum": ["", "Memory"]}, sizeLimit=TEXT),
    persistentVolumeClaim=of(["claimName"], claimName=TEXT),
)
TEMPLATE = of(["spec"], spec=of(["containers"], containers=many(CONTAINER), volumes=many(VOLUME)))
# KubeRay's: apis/ray/v1, RayJobSpec and RayClusterSpec.
HEAD = of(["template"], rayStartParams=TEXTS, template=TEMPLATE)
WORKERS = of(
    ["groupName", "minReplicas", "maxReplicas", "template"],
    groupName=NAME, replicas=COUNT, minReplicas=COUNT, maxReplicas=COUNT, rayStartParams=TEXTS, template=TEMPLATE,
)  # fmt: skip
SCHEMA = of(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=of(["name"], name=NAME),
    spec=of(
        ["entrypoint", "rayClusterSpec"],
        entrypoint=TEXT,
        runtimeEnvYAML=TEXT,
        metadata=TEXTS,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
        submitterConfig=of([], backoffLimit=COUNT),
        backoffLimit=COUNT,
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=COUNT,
        rayClusterSpec=of(["headGroupSpec"], headGroupSpec=HEAD, workerGroupSpecs=many(WORKERS)),
    ),
)


def faults(document: Any) -> list[str]:
    found = jsonschema.Draft202012Validator(SCHEMA).iter_errors(document)
    return ["/".join(map(str, error.absolute_path)) for error in found]


@pytest.fixture
def request_(arguments: list[str]) -> Request:
    return Request(arguments, ["WANDB_API_KEY", "HF_HOME=/shared/hf"])


@pytest.fixture
def named(job: Job, request_: Request) -> Job:
    environment = collect({"WANDB_API_KEY": "0123456789", "NCCL_DEBUG": "INFO"}, request_.env)
    return dataclasses.replace(job, environment=environment)


@pytest.mark.parametrize("nodes", [1, 4])
def test_the_manifest_fits_the_schema(named: Job, request_: Request, nodes: int) -> None:
    document = yaml.safe_load(render(dataclasses.replace(named, nodes=nodes), request_, PODS))
    assert faults(document) == []
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_schema_refuses(named: Job, request_: Request) -> None:
    good = manifest(named, request_, PODS)
    for path, value in (
        (("apiVersion",), "ray.io/v1alpha1"),
        (("spec", "backoffLimit"), "2"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "tempate"), {}),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-gpus"), 8),
        (("metadata", "name"), "a_b"),
    ):
        wrong = copy.deepcopy(good)
        node: Any = wrong
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
        assert len(faults(wrong)) == 1, path


def test_nodes_gpus_and_the_command(named: Job, request_: Request) -> None:
    spec = manifest(named, request_, PODS)["spec"]
    assert spec["entrypoint"] == named.entrypoint
    assert spec["backoffLimit"] == 2
    cluster = spec["rayClusterSpec"]
    # The head is one of the four nodes.
    assert cluster["workerGroupSpecs"][0]["replicas"] == 3
    for group in (cluster["headGroupSpec"], cluster["workerGroupSpecs"][0]):
        container = group["template"]["spec"]["containers"][0]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
        assert {"name": "volume-0", "mountPath": "/shared"} in container["volumeMounts"]
        assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    alone = manifest(dataclasses.replace(named, nodes=1), request_, PODS)
    assert "workerGroupSpecs" not in alone["spec"]["rayClusterSpec"]


def test_the_pods_have_the_cpus_that_preflight_wants(arguments: list[str], request_: Request) -> None:
    """Eight GPUs with three CPUs each, task runner, queue with eight units, one to start an actor: 35, not 32."""
    from verl_ext.cluster.preflight.wanted import wanted
    from verl_ext.train import compose

    one = [*arguments, "trainer.nnodes=1"]
    job = prepare(Request(one), {}).job
    assert job is not None
    assert job.cpus == wanted(compose(one).config).all_cpus == 35
    [container] = manifest(job, request_, PODS)["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"][
        "containers"
    ]
    assert container["resources"]["requests"]["cpu"] == "35"
    assert cpu_faults(job, 35) == cpu_faults(job, None) == []
    assert "--cpus 34: a node with 8 GPUs needs 35" in cpu_faults(job, 34)[0]


def test_rollouts_with_nodes_of_their_own_get_pods(arguments: list[str]) -> None:
    apart = [
        *arguments, "trainer.v1.trainer_mode=separate_async", "actor_rollout_ref.hybrid_engine=false",
        "actor_rollout_ref.rollout.nnodes=2", "actor_rollout_ref.rollout.n_gpus_per_node=8",
        "actor_rollout_ref.rollout.checkpoint_engine.backend=nccl",
    ]  # fmt: skip
    prepared = prepare(Request(apart), {})
    assert prepared.job is not None, prepared.faults
    assert prepared.job.nodes == 4 + 2


def test_secrets_are_references(named: Job, request_: Request) -> None:
    text = render(named, request_, PODS)
    assert "0123456789" not in text
    variables = yaml.safe_load(yaml.safe_load(text)["spec"]["runtimeEnvYAML"])["env_vars"]
    assert (variables["HF_HOME"], variables["NCCL_DEBUG"]) == ("/shared/hf", "INFO")
    assert "WANDB_API_KEY" not in variables
    reference = {"name": "WANDB_API_KEY", "valueFrom": {"secretKeyRef": {"name": "verl-ext", "key": "WANDB_API_KEY"}}}
    cluster = yaml.safe_load(text)["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], cluster["workerGroupSpecs"][0]):
        assert group["template"]["spec"]["containers"][0]["env"] == [reference]


def test_a_secret_need_not_be_here(job: Job, request_: Request) -> None:
    unset = dataclasses.replace(job, environment=collect({}, request_.env))
    assert "secretKeyRef" in render(unset, request_, PODS)
    plain = manifest(dataclasses.replace(job, environment=Environment()), request_, PODS)
    [container] = plain["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert "env" not in container


def test_checkpoints_must_outlive_the_pods(job: Job) -> None:
    assert PODS.faults(job) == []
    assert "lies on none of the volumes" in Pods("i").faults(job)[0]
    assert "lies on none" in Pods("i", ("runs:/share",)).faults(job)[0]
    assert "write claim:/folder" in Pods("i", ("/shared", "runs:/shared")).faults(job)[0]


@pytest.mark.parametrize("name", ["ESPO 7B (seed_1)", "7b", "x" * 80, "-a-", "ä"])
def test_names_are_kubernetes_names(name: str) -> None:
    jsonschema.validate(kubernetes_name(name), NAME)
