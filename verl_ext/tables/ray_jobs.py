"""Rows as Ray jobs: the same command, run on the cluster's head node, one job a row."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from verl_ext.cluster.submission import client
from verl_ext.cluster.submission.environment import collect
from verl_ext.cluster.submission.job import Job as Submission
from verl_ext.tables.job import Job


def command(job: Job, options: Sequence[str]) -> list[str]:
    """What a job runs, as words.

    Args:
        job: a row with one seed.
        options: further options of `verl-ext tables run`.
    """
    own = ["verl-ext", "tables", "run", job.row.reference, "--seeds", str(job.seed), "--as", "local"]
    for override in job.overrides:
        own += ["--override", override]
    return [*own, *options]


def entrypoint(job: Job, options: Sequence[str]) -> str:
    """`command` as a shell reads it."""
    return shlex.join(command(job, options))


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
    if faults := client.address_faults(address):
        raise ConnectionError(faults[0])
    server, environment = client.connect(address), collect(os.environ)
    asked = [
        Submission(
            name=job.name,
            command=tuple(command(job, options)),
            environment=environment,
            labels={"row": job.row.reference, "seed": str(job.seed)},
        )
        for job in jobs
    ]
    return [client.submit(server, one, client.new_identity(one.name)) for one in asked]
