"""Made benchmarks, a made verifier, and a made endpoint for the tests of the evaluation."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl_ext.toy.task import problems, row

Answer = tuple[int, dict[str, str], dict[str, Any]]


def benchmark(path: Path, count: int, **changes: Any) -> Path:
    """A benchmark of the demo's problems, every row changed by `changes`."""
    rows = [{**row(problem, index), **changes} for index, problem in enumerate(problems("validation", count, 0))]
    return table(path, rows)


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def verifiers(version: str = "made 1", correct: str = "correct") -> SimpleNamespace:
    """Stands for `verl_ext.rewards.verifiers`: a response's last word is its outcome, `correct` being a success."""

    def get(name: str) -> SimpleNamespace:
        if not name.startswith("made"):
            raise ValueError(f"no verifier {name}; known are made, made_too")
        found = version if name == "made" else f"{name} 1"
        return SimpleNamespace(name=name, version=found, described=lambda _: found)

    def grade_many(
        verifier: Any, pairs: list[tuple[str, str]], workers: int, answer_format: str
    ) -> Iterator[SimpleNamespace]:
        for response, truth in pairs:
            outcome = response.split()[-1] if response else "unparsable"
            if outcome == correct and truth:
                outcome = "correct"
            elif outcome == "correct":
                outcome = "wrong"
            yield SimpleNamespace(outcome=outcome, boxed="boxed" in response, detail="")

    return SimpleNamespace(get=get, grade_many=grade_many)


def completion(text: str | None, reason: str = "stop", tokens: int | None = 7) -> Answer:
    """What an endpoint answers with."""
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text}}
    usage = None if tokens is None else {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 1 + tokens}
    found = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return 200, {}, found


class Server:
    """An endpoint on this machine. `requests` are the bodies it got, `keys` the authorisations."""

    def __init__(self, answer: Callable[[dict[str, Any], int], Answer]) -> None:
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    @contextmanager
    def busy(self) -> Iterator[None]:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        yield
        with self._lock:
            self._now -= 1

    def take(self, body: dict[str, Any], key: str) -> Answer:
        with self._lock:
            self.requests.append(body)
            self.keys.add(key)
            number = len(self.requests)
        return self.answer(body, number)


@contextmanager
def serving(answer: Callable[[dict[str, Any], int], Answer]) -> Iterator[tuple[Server, str]]:
    """A server with this answer to (request, number of requests so far), and its base URL."""
    server = Server(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            with server.busy():
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, headers, found = server.take(body, self.headers["Authorization"])
                data = json.dumps(found).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Type": "application/json", "Content-Length": len(data)}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{http.server_port}/v1"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
