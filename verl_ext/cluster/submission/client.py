"""Ray's job server: reach it, submit, follow a log, learn how a job ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from verl_ext.cluster.submission.job import Job
from verl_ext.cluster.submission.restart import Outcome

PATIENCE_S = 120.0
"""How long a job server may be silent before it counts as lost."""

TOKEN_REMEDY = "set RAY_AUTH_MODE=token here, and have the cluster's token in RAY_AUTH_TOKEN or ~/.ray/auth_token"
"""Ray 2.60 asks for a token wherever the head found one in its home folder when it started."""

_POLL_S = 1.0
_RAYS_OWN = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")


class ServerLostError(RuntimeError):
    """The job server does not answer any more; of the job nothing is known."""


def address_faults(address: str | None) -> list[str]:
    """Why an address is none of a job server."""
    if address is None:
        return ["--address is missing: where Ray's job server listens, for instance http://head:8265"]
    if not address.startswith(("http://", "https://")):
        return [f"--address {address}: the job server speaks HTTP; write http://<head>:8265"]
    return []


def connect(address: str) -> Any:
    """A client of the job server at this address and no other.

    Raises:
        ConnectionError: if nothing answers there, or if a token is missing or wrong.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        with _without(_RAYS_OWN):
            return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise ConnectionError(f"it asks for a token; {TOKEN_REMEDY}") from error


@contextlib.contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """Ray lets these variables win over an address that was given."""
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def new_identity(name: str) -> str:
    """An id that Ray has not seen.

    Example:
        >>> new_identity("ESPO 7B")[:16]
        'verl-ext-espo-7b'
    """
    plain = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in name.lower()).strip("-")
    return f"verl-ext-{plain[:40]}-{uuid.uuid4().hex[:8]}"


def submit(client: Any, job: Job, identity: str) -> str:
    """Submit a job under this id, and return the id."""
    # The trainer asks Ray for its own resources; the job itself only starts it.
    return client.submit_job(
        entrypoint=job.entrypoint, submission_id=identity, runtime_env=job.runtime_env(), metadata=job.metadata()
    )


def rivals(client: Any, checkpoints: str | None) -> list[str]:
    """Ids of jobs that run or wait and save their checkpoints in the same folder."""
    if checkpoints is None:
        return []
    return [
        str(found.submission_id)
        for found in client.list_jobs()
        if not found.status.is_terminal() and (found.metadata or {}).get("checkpoints") == checkpoints
    ]


@dataclass
class LogReader:
    """Follows the log of a job line by line, through broken connections.

    Attributes:
        client: of the job server.
        identity: the job's.
        take: called with each line, without its end.
        patience: seconds without an answer after which `ServerLostError` is raised.
    """

    client: Any
    identity: str
    take: Callable[[str], None]
    patience: float = PATIENCE_S
    _seen: int = 0
    _rest: str = ""
    _lost_at: float | None = None

    def follow(self) -> Outcome:
        """Read until the job has ended; how it ended."""
        while True:
            try:
                # A new connection tells the log from its beginning.
                asyncio.run(self._read(self._seen))
                info = self.client.get_job_info(self.identity)
                self._lost_at = None
            except _no_answer() as error:
                self._lost_at = self._lost_at or time.monotonic()
                if time.monotonic() - self._lost_at > self.patience:
                    raise ServerLostError(f"no answer for {self.patience:.0f} s: {error}") from error
            else:
                if info.status.is_terminal():
                    self._end()
                    return outcome(info)
            time.sleep(_POLL_S)

    async def _read(self, skip: int) -> None:
        async for chunk in self.client.tail_job_logs(self.identity):
            self._lost_at = None
            fresh, skip = chunk[skip:], max(0, skip - len(chunk))
            self._seen += len(fresh)
            *lines, self._rest = (self._rest + fresh).split("\n")
            for line in lines:
                self.take(line)

    def _end(self) -> None:
        if self._rest:
            self.take(self._rest)
            self._rest = ""


def _no_answer() -> tuple[type[BaseException], ...]:
    import aiohttp
    import requests

    # Ray raises a plain RuntimeError where the connection breaks and where the server answers with an error.
    return (
        ConnectionError,
        requests.exceptions.RequestException,
        aiohttp.ClientError,
        RuntimeError,
        asyncio.TimeoutError,
    )


def outcome(info: Any) -> Outcome:
    """How a job ended, from what Ray tells of it."""
    kind = getattr(info.error_type, "value", info.error_type)
    return Outcome(str(info.status), info.driver_exit_code, kind, info.message or "")


def stop(client: Any, identity: str, patience: float = 30.0) -> bool:
    """Stop a job and wait until it has ended; whether it has."""
    client.stop_job(identity)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if client.get_job_info(identity).status.is_terminal():
            return True
        time.sleep(0.5)
    return False
