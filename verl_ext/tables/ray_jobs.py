"""Rows as Ray jobs: the same command, run on the cluster's head node, one job a row."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from verl_ext.tables.job import Job


def entrypoint(job: Job, options: Sequence[str]) -> str:
    """What a job runs.

    Args:
        job: a row with one seed.
        options: further options of `verl-ext tables run`.
    """
    own = ["verl-ext", "tables", "run", job.row.reference, "--seeds", str(job.seed), "--as", "local"]
    for override in job.overrides:
        own += ["--override", override]
    return shlex.join([*own, *options])


def submit(jobs: Sequence[Job], address: str, options: Sequence[str] = ()) -> list[str]:
    """Submit a job for each row and seed, and return Ray's ids; they run when the cluster gets to them.

    The cluster's nodes need this package, and a folder for results that all of them see.

    Args:
        jobs: rows with one seed each.
        address: of the cluster's job server, for instance ``http://head:8265``.
        options: further options of `verl-ext tables run`.

    Raises:
        ConnectionError: if nothing answers at the address.
    """
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(address)
    # The trainer asks Ray for its own resources; the job itself only starts it.
    return [
        client.submit_job(
            entrypoint=entrypoint(job, options), metadata={"row": job.row.reference, "seed": str(job.seed)}
        )
        for job in jobs
    ]
