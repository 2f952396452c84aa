"""The same job as a RayJob for the KubeRay operator: a Ray cluster of pods for the time of the job."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from verl_ext.cluster.submission.job import Job, Request

LONGEST_NAME = 47
"""KubeRay appends to a RayJob's name, and Kubernetes allows 63 letters."""

GPU = "nvidia.com/gpu"
KEPT_S = 600


@dataclass(frozen=True)
class Pods:
    """What a configuration does not say about the pods.

    Attributes:
        image: holds this package, verl and vLLM.
        volumes: ``claim:/folder`` of each volume, seen by every pod.
        secret: Kubernetes secret with the variables that were named without a value.
        cpus: of a pod; what the job needs by default.
        memory: of a pod, for instance ``900Gi``.
        shared_memory: of a pod's /dev/shm, through which weights and batches travel; counts as its memory.
    """

    image: str
    volumes: Sequence[str] = ()
    secret: str = "verl-ext"
    cpus: int | None = None
    memory: str = "256Gi"
    shared_memory: str = "64Gi"

    def faults(self, job: Job) -> list[str]:
        """What would make the pods useless."""
        found = [
            f"--volume {volume}: write claim:/folder"
            for volume in self.volumes
            if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?:/.+", volume)
        ]
        mounts = [PurePosixPath(volume.partition(":")[2]) for volume in self.volumes]
        folder = PurePosixPath(job.checkpoints or "/")
        if not any(folder.is_relative_to(mount) for mount in mounts):
            found.append(
                f"trainer.default_local_dir={folder} lies on none of the volumes and would be lost with the pod; "
                "mount one with --volume claim:/folder"
            )
        return found


def render(job: Job, request: Request, pods: Pods) -> str:
    """The manifest as YAML, texts of several lines written as such."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump(manifest(job, request, pods), Dumper=Dumper, sort_keys=False, width=120)


def manifest(job: Job, request: Request, pods: Pods) -> dict[str, Any]:
    """A RayJob whose head is the first node and whose workers are the others, each with the node's GPUs.

    Args:
        job: what `prepare` made of the request.
        request: what was asked for.
        pods: what they look like.
    """
    import yaml

    written = {name for name, sign, _ in (item.partition("=") for item in request.env) if sign}
    secrets = [name for name in job.environment.named if name not in written] + list(job.environment.unset)
    variables = {name: value for name, value in job.environment.variables.items() if name not in secrets}
    groups = [
        {
            "groupName": "workers",
            "replicas": job.nodes - 1,
            "minReplicas": job.nodes - 1,
            "maxReplicas": job.nodes - 1,
            "rayStartParams": {"num-gpus": str(job.gpus)},
            "template": _template(pods, job, secrets),
        }
    ]
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": kubernetes_name(job.name)},
        "spec": {
            "entrypoint": job.entrypoint,
            "runtimeEnvYAML": yaml.safe_dump({"env_vars": variables}),
            "metadata": job.metadata(),
            "submissionMode": "K8sJobMode",
            # Of the pod that hands the job in: handing it in twice would start it twice.
            "submitterConfig": {"backoffLimit": 0},
            # Of the whole cluster: KubeRay does not look at the reason.
            "backoffLimit": job.max_restarts,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": KEPT_S,
            "rayClusterSpec": {
                "headGroupSpec": {
                    "rayStartParams": {"dashboard-host": "0.0.0.0", "num-gpus": str(job.gpus)},
                    "template": _template(pods, job, secrets),
                },
                **({"workerGroupSpecs": groups} if job.nodes > 1 else {}),
            },
        },
    }


def _template(pods: Pods, job: Job, secrets: Sequence[str]) -> dict[str, Any]:
    gpus = {GPU: str(job.gpus)} if job.gpus else {}
    amounts = {"cpu": str(pods.cpus or job.cpus), "memory": pods.memory, **gpus}
    claims = [volume.partition(":") for volume in pods.volumes]
    shm = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": pods.shared_memory}}
    container: dict[str, Any] = {
        "name": "ray",
        "image": pods.image,
        "resources": {"requests": dict(amounts), "limits": amounts},
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},
            *({"name": f"volume-{number}", "mountPath": path} for number, (_, _, path) in enumerate(claims)),
        ],
    }
    if secrets:
        container["env"] = [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": pods.secret, "key": name}}} for name in secrets
        ]
    return {
        "spec": {
            "containers": [container],
            "volumes": [
                shm,
                *(
                    {"name": f"volume-{number}", "persistentVolumeClaim": {"claimName": claim}}
                    for number, (claim, _, _) in enumerate(claims)
                ),
            ],
        }
    }


def kubernetes_name(text: str) -> str:
    """A name as Kubernetes allows it.

    Example:
        >>> kubernetes_name("ESPO 7B (seed_1)")
        'espo-7b-seed-1'
    """
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:LONGEST_NAME].rstrip("-")
    return plain if plain[:1].isalpha() else f"job-{plain}"[:LONGEST_NAME].rstrip("-")
