r"""`python -m benchmarks.reader PAIRS`: is our reader of answers worth its lines?

PAIRS are JSON lines of ``truth``, ``answer``, ``right`` (what another grader or a test suite said, corrected by hand
where it was wrong) and ``source``. Two measurements: math-verify alone beside ours, and rule by rule: every rule is
switched off (`benchmarks.rules`) and all pairs and ground truths are graded again; what changes, the rule decided.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import rules
from benchmarks.perturbations import perturbed
from benchmarks.verification import RESULTS, ground_truths, parquet_files
from verl_ext.rewards.answer_text import unboxed
from verl_ext.rewards.verifiers import get

console = Console(width=160)
_LIMIT_S = 2.0
_PERTURBED = 1_000


@dataclass(frozen=True)
class Pair:
    r"""A ground truth and an answer; without an answer, a ground truth of which only its kind is asked.

    Attributes:
        source: where it is from; pairs made by `benchmarks.perturbations` are ``perturbations``.
        right: whether the answer is right; of a ground truth alone, that it can be read as mathematics.
        times: how often it occurs.
    """

    source: str
    truth: str
    answer: str | None
    right: bool
    times: int = 1


class _LateError(BaseException):
    """Not an `Exception`, which readers may take for "cannot be read"."""


def limited(task: Callable[[], str]) -> str:
    """What `task` returns, ``timeout``, or ``error``."""

    def late(*_: object) -> None:
        raise _LateError

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, _LIMIT_S)
    try:
        return task()
    except _LateError:
        return "timeout"
    except Exception:
        return "error"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def ours(pair: Pair) -> str:
    """Our verdict, in this process."""
    from verl_ext.rewards._grading import grade, kind

    truth = unboxed(pair.truth)
    return limited(lambda: kind(truth) if pair.answer is None else grade(pair.answer, truth))


def theirs(pair: Pair) -> str:
    """math-verify alone, as its users call it: `parse` of both in a box, `verify`."""
    from math_verify import parse, verify

    def task() -> str:
        gold = parse(f"\\boxed{{{pair.truth}}}", parsing_timeout=None)
        answer = parse(f"\\boxed{{{pair.answer}}}", parsing_timeout=None)
        if not answer:
            return "unparsable"
        return "correct" if verify(gold, answer, timeout_seconds=None) else "wrong"

    return limited(task)


def counted(pairs: Iterable[Pair]) -> list[Pair]:
    """Each different pair once, with how often it occurs; the same characters say nothing of a rule."""
    different = Counter((pair.source, pair.truth, pair.answer, pair.right) for pair in pairs)
    return [Pair(*key, times) for key, times in different.items()]


def read_pairs(files: list[Path]) -> list[Pair]:
    """The pairs of JSON lines."""
    rows = (json.loads(line) for file in files for line in file.read_text().splitlines())
    return counted(
        Pair(row.get("source") or file_kind(row), row["ground_truth" if "ground_truth" in row else "truth"],
             row["answer"], row["right"])
        for row in rows
    )  # fmt: skip


def file_kind(row: dict[str, object]) -> str:
    """Pairs without a source are reports."""
    return "reports" if "kind" in row else "pairs"


def from_ground_truths(files: list[Path]) -> list[Pair]:
    """Ground truths that are no whole numbers: their kind, and of some what is wrong and can be made of them."""
    truths = sorted({truth for file in parquet_files(files) for truth in ground_truths(file)})
    truths = [truth for truth in truths if not re.fullmatch(r"-?\d+", truth)]
    kinds = [Pair("ground truths", truth, None, True) for truth in truths]
    some = random.Random(0).sample(truths, min(len(truths), _PERTURBED))
    return kinds + [Pair("perturbations", truth, answer, False) for truth in some for _, answer in perturbed(truth)]


@dataclass
class Decided:
    """What a rule decided: verdicts that change without it, and of these, how many it makes right."""

    rule: str
    decided: Counter[str]
    rightly: Counter[str]
    examples: list[tuple[str, str | None, str, str]]


def good(pair: Pair, verdict: str) -> bool:
    """Whether a verdict is the right one."""
    if pair.answer is None:
        return verdict == "mathematics"
    return (verdict == "correct") == pair.right and verdict not in ("timeout", "error")


def without(rule: rules.Rule, pairs: list[Pair], verdicts: list[str], places: list[int]) -> Decided:
    """Grade again, with a rule switched off, where it did something; the process keeps the change."""
    found = Decided(rule.name, Counter(), Counter(), [])
    rule.switch_off()
    for place in places:
        pair, before = pairs[place], verdicts[place]
        after = ours(pair)
        # Whether a wrong answer could be read decides no reward.
        if (after == "correct") == (before == "correct") and (pair.answer is not None or after == before):
            continue
        found.decided[pair.source] += pair.times
        found.rightly[pair.source] += pair.times * good(pair, before)
        found.examples.append((pair.truth, pair.answer, before, after))
    return found


def acting(pairs: list[Pair]) -> dict[str, list[int]]:
    """Where each rule did something; in a process of its own, which keeps the watching."""
    found = rules.find()
    places: dict[str, list[int]] = {rule.name: [] for rule in found}
    acted: set[str] = set()
    rules.watch(found, acted.add)
    for place, pair in enumerate(pairs):
        acted.clear()
        rules.forget()
        ours(pair)
        text = f"{pair.truth} {pair.answer or ''}"
        acted.update(rule.name for rule in found if rule.entries and rules.mentions(rule, text))
        for name in acted:
            places[name].append(place)
    return places


def _alone(task: str) -> object:
    pairs, verdicts, places = _STATE
    if not task:
        return acting(pairs)
    rule = next(rule for rule in rules.find() if rule.name == task)
    return without(rule, pairs, verdicts, places[task])


_STATE: list[Any] = []
"""What forked processes find: the pairs, their verdicts, and where each rule did something."""


def ablation(pairs: list[Pair], workers: int) -> Iterator[Decided]:
    """Every rule in turn, in forked processes: they share what was parsed."""
    rules.remember_parsed()
    _STATE[:] = [pairs, [ours(pair) for pair in pairs], None]
    fork = multiprocessing.get_context("fork")
    with fork.Pool(1, maxtasksperchild=1) as one:
        _STATE[2] = one.apply(_alone, ("",))
    with fork.Pool(workers, maxtasksperchild=1) as processes:
        yield from processes.imap_unordered(_alone, [rule.name for rule in rules.find()], chunksize=1)


def compared(pairs: list[Pair]) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """By source: how often ours and math-verify alone are right; and every disagreement."""
    rows, disagreements = [], []
    for source in dict.fromkeys(pair.source for pair in pairs):
        count: Counter[str] = Counter()
        seconds = {"ours": 0.0, "math-verify": 0.0}
        for pair in (pair for pair in pairs if pair.source == source):
            verdicts = {}
            for name, way in (("ours", ours), ("math-verify", theirs)):
                start = time.process_time()
                verdicts[name] = way(pair)
                seconds[name] += time.process_time() - start
            count["pairs"] += pair.times
            for name, verdict in verdicts.items():
                count[f"{name} right"] += pair.times * good(pair, verdict)
                count[f"{name} wrongly paid"] += pair.times * (verdict == "correct" and not pair.right)
                count[f"{name} wrongly refused"] += pair.times * (verdict != "correct" and pair.right)
            if (verdicts["ours"] == "correct") != (verdicts["math-verify"] == "correct"):
                count["disagree"] += pair.times
                disagreements.append({**asdict(pair), **verdicts})
            elif not good(pair, verdicts["ours"]):
                disagreements.append({**asdict(pair), **verdicts, "both differ from the label": True})
        rows.append({"source": source, **count, **{f"{k} seconds": round(v, 1) for k, v in seconds.items()}})
    return rows, disagreements


def main(
    pairs: Annotated[list[Path], typer.Argument(help="JSON lines: truth, answer, right, source")],
    truths: Annotated[list[Path] | None, typer.Option(help="parquet files, or folders of them")] = None,
    workers: Annotated[int, typer.Option()] = 2,
    listing: Annotated[Path | None, typer.Option(help="folder for disagreements and decided verdicts")] = None,
    keep: Annotated[bool, typer.Option(help=f"write the counts to {RESULTS.name}/")] = False,
    only: Annotated[str, typer.Option(help="both, rules, or compared")] = "both",
) -> None:
    """Compare with math-verify alone, and switch off rule by rule."""
    judged = read_pairs(pairs)
    kept: dict[str, object] = {}
    if only != "rules":
        rows, disagreements = compared(judged)
        kept["compared"] = rows
        console.print_json(json.dumps(rows))
        if listing:
            (listing / "disagreements.jsonl").write_text("".join(json.dumps(row) + "\n" for row in disagreements))
    if only != "compared":
        told = [pair for pair in judged if "".join(pair.truth.split()) != "".join((pair.answer or "").split())]
        told += counted(from_ground_truths(truths or []))
        print(f"{len(told)} different pairs", file=sys.stderr)
        decisions = sorted(ablation(told, workers), key=lambda decided: (-decided.decided.total(), decided.rule))
        table = Table("rule", "decided", "rightly", "where")
        for decided in decisions:
            where = ", ".join(f"{source} {count}" for source, count in decided.decided.most_common())
            table.add_row(decided.rule, str(decided.decided.total()), str(decided.rightly.total()), where)
        console.print(table)
        kept["rules"] = [
            {"rule": d.rule, "decided": dict(d.decided.most_common()), "rightly": dict(d.rightly.most_common())}
            for d in decisions
        ]
        if listing:
            rows = [{"rule": d.rule, "examples": d.examples[:40]} for d in decisions]
            (listing / "decided.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if keep:
        RESULTS.mkdir(exist_ok=True)
        for name, rows in kept.items():
            text = json.dumps({"verifier": get("math_verify").version, "rows": rows}, indent=1)
            (RESULTS / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    typer.run(main)
