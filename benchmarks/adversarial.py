r"""`python -m benchmarks.adversarial FILES`: answers that are meant to break the verifier, in its real processes.

At least 30% are mutations of real ground truths (`MUTATIONS`), the rest comes from a small grammar and from the shapes
of `benchmarks.hostile`. Each is graded by `compute_score` with its own time limit. Reported: outcomes, the slowest
answer, every timeout and error, the largest memory of any worker. Every answer judged correct is compared with its
ground truth by a second way that shares no code with the reader (`benchmarks.second_way`).
"""

from __future__ import annotations

import json
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from benchmarks.hostile import LONGEST, SHAPES
from benchmarks.second_way import Verdict, agree
from benchmarks.verification import RESULTS, boxed, ground_truths, parquet_files
from verl_ext.rewards import math as reward
from verl_ext.rewards import pool, verifiers

console = Console(width=160)

_TOKENS = re.compile(r"\\[A-Za-z]+|\\.|\d+|\s+|.", re.DOTALL)
_COMMANDS = r"""
    \pm \mp \pmod \mod \bmod \in \int \infty \le \left \leq \ne \neg \cup \cap \cdot \cdots \log \ln
    \lg
    \max \min \exp \sin \arcsin \cos \tan \frac \dfrac \sqrt \binom \text \mathrm \mathbb \sum \prod
    \lim \lfloor \rfloor \lceil \rceil \pi \theta \alpha \circ \degree \approx \equiv \sim \setminus \times
    \div \vec \overline \hat \quad \, \; \! \% \$ \{ \} \to \mid \angle \triangle \ldots \choose \over
"""
_PIECES = [
    *_COMMANDS.split(),
    *"0123456789abcdefijknxyzABCEFIR()[]{}+-*/^_=<>,;:.|!'&%$~ ",
    "10",
    "1000",
    "0.5",
    "e^",
    "{}",
]


def tokens(text: str) -> list[str]:
    """Commands, numbers, and single characters."""
    return _TOKENS.findall(text)


Mutation = Callable[[random.Random, str, str], str]


def _drop(draw: random.Random, text: str, _: str) -> str:
    parts = tokens(text)
    del parts[draw.randrange(len(parts))]
    return "".join(parts)


def _double(draw: random.Random, text: str, _: str) -> str:
    parts = tokens(text)
    start = draw.randrange(len(parts))
    end = min(len(parts), start + draw.randint(1, 4))
    return "".join(parts[:end] + parts[start:end] * draw.choice((1, 1, 2, 8)) + parts[end:])


def _swap(draw: random.Random, text: str, _: str) -> str:
    parts = tokens(text)
    first, second = draw.randrange(len(parts)), draw.randrange(len(parts))
    parts[first], parts[second] = parts[second], parts[first]
    return "".join(parts)


def _insert(draw: random.Random, text: str, _: str) -> str:
    parts = tokens(text)
    parts.insert(draw.randint(0, len(parts)), draw.choice(_PIECES))
    return "".join(parts)


def _replace(draw: random.Random, text: str, _: str) -> str:
    parts = tokens(text)
    parts[draw.randrange(len(parts))] = draw.choice(_PIECES)
    return "".join(parts)


def _splice(draw: random.Random, text: str, other: str) -> str:
    first, second = tokens(text), tokens(other)
    return "".join(first[: draw.randint(0, len(first))] + second[draw.randint(0, len(second)) :])


def _join(draw: random.Random, text: str, other: str) -> str:
    between = draw.choice((", ", "=", r"\cup ", "+", "-", r"\pm ", "<", ":", r"\text{ or }", " ", "^", r"\equiv "))
    return f"{text}{between}{other}"


def _nest(draw: random.Random, text: str, other: str) -> str:
    before, after = draw.choice(
        ((r"\frac{", rf"}}{{{other}}}"), (r"\frac{1}{", "}"), (r"\sqrt{", "}"), (r"\sqrt[3]{", "}"), ("2^{", "}"),
         ("(", ")^{2}"), ("(", ")"), ("[", ")"), (r"\{", r"\}"), ("-(", ")"), ("|", "|"), (r"\sin(", ")"),
         (r"\ln(", ")"), (r"\lfloor ", r"\rfloor "), ("(", ")!"), (r"\binom{", "}{2}"), ("e^{", "}"), ("x=", ""),
         (r"\text{", "}"), (r"\left(", r"\right)"), ("1+", ""), (r"\overline{", "}"), (r"\boxed{", "}"))
    )  # fmt: skip
    times = draw.choice((1, 1, 1, 2, 4, 12, 40))
    return before * times + text + after * times


def _grow(draw: random.Random, text: str, _: str) -> str:
    numbers = list(re.finditer(r"\d+", text))
    if not numbers:
        return text + "0" * draw.randint(1, 20)
    match = draw.choice(numbers)
    grown = draw.choice(
        (match.group() + "0" * draw.choice((1, 3, 30, 300)), f"{match.group()}^{{{match.group()}}}", "9" * 40,
         f"{match.group()}.{match.group()}", f"10^{{{match.group()}}}", f"{match.group()}!", f"{match.group()}e9")
    )  # fmt: skip
    return text[: match.start()] + grown + text[match.end() :]


def _near(draw: random.Random, text: str, _: str) -> str:
    """One digit, letter or sign changed: what a second look has to notice."""
    places = [place for place, character in enumerate(text) if re.match(r"[\da-zA-Z+<>()\[\]-]", character)]
    if not places:
        return text + "1"
    place = draw.choice(places)
    kinds = ("0123456789", "abcnxyt", "+-", "<>", "([", ")]")
    same = next((kind for kind in kinds if text[place] in kind), "abcnxyt")
    return text[:place] + draw.choice(same) + text[place + 1 :]


def _rewritten(draw: random.Random, text: str, _: str) -> str:
    """Mostly the same value, otherwise written."""
    changes: tuple[Callable[[], str], ...] = (
        lambda: text.replace(r"\frac", r"\dfrac"),
        lambda: re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"(\1)/(\2)", text),
        lambda: re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"\\frac{2(\1)}{2(\2)}", text),
        lambda: re.sub(r"\\sqrt\{([^{}]*)\}", r"(\1)^{1/2}", text),
        lambda: re.sub(r"\b(\d+)\b", lambda match: f"({match.group()}+1-1)", text, count=1),
        lambda: f"x={text}",
        lambda: f"{text}+0",
        lambda: f"{text}\\text{{ cm}}",
        lambda: f"2({text})/2",
        lambda: ", ".join(reversed(text.split(","))),
        lambda: f"{text}={text}",
        lambda: f"{text}.0",
        lambda: text.replace("^", "**"),
        lambda: " ".join(tokens(text)),
        lambda: f"$\\displaystyle {text}$",
        lambda: str(round(float(text), 3)) if re.fullmatch(r"-?\d+(\.\d+)?", text) else f"{text} ",
        lambda: f"{text}\\%",
        lambda: f"{text} \\approx 1.5",
    )
    return draw.choice(changes)()


MUTATIONS: dict[str, Mutation] = {
    "token dropped": _drop,
    "tokens doubled": _double,
    "tokens swapped": _swap,
    "token put in": _insert,
    "token replaced": _replace,
    "two spliced": _splice,
    "two joined": _join,
    "nested": _nest,
    "number grown": _grow,
    "one character changed": _near,
    "rewritten": _rewritten,
}


def mutated(draw: random.Random, truths: list[str]) -> tuple[str, str, str]:
    """The name of the first mutation, the answer, and the ground truth that it is made of."""
    truth, other = draw.choice(truths), draw.choice(truths)
    name = draw.choice(list(MUTATIONS))
    text = MUTATIONS[name](draw, truth, other)
    while draw.random() < 0.4:
        text = MUTATIONS[draw.choice(list(MUTATIONS))](draw, text or truth, other)
    return name, text, truth


def _expression(draw: random.Random, depth: int) -> str:
    if depth <= 0 or draw.random() < 0.2:
        return draw.choice(["1", "2", "7", "-3", "10", "0", "0.25", "x", "n", "a_{1}", r"\pi", "e", "i", r"\theta"])
    inner = [_expression(draw, depth - 1) for _ in range(2)]
    form = draw.choice(
        ("@+#", "@-#", "@#", r"@\cdot #", r"\frac{@}{#}", "@/#", "@^{#}", "(@)^{#}", r"\sqrt{@}", r"\sqrt[3]{@}", "(@)",
         r"\sin(@)", r"\cos @", r"\ln(@)", r"\log_{#} @", "|@|", r"\lfloor @\rfloor", "(@)!", r"\binom{@}{#}", "e^{@}",
         r"\sum_{k=1}^{@} #", r"\prod_{k=1}^{@} k", r"\int_0^1 @ dx", r"\lim_{n\to\infty} @", r"@\pm #", r"@\pmod{#}",
         r"\overline{@}", r"\max(@,#)", r"\gcd(@,#)", "@_{#}", "f(@)", r"\arctan @", r"@^\circ", r"@\%",
         r"{@\choose #}")
    )  # fmt: skip
    return form.replace("@", inner[0]).replace("#", inner[1])


def generated(draw: random.Random, truths: list[str]) -> tuple[str, str, str]:
    """The structure, an answer from the grammar, and a ground truth: another of them, the same, or a real one."""
    name, form = draw.choice(
        (("expression", "@"), ("list", "@, #, @"), ("set", r"\{@, #\}"), ("tuple", "(@, #)"), ("interval", "[@, #)"),
         ("union", r"(@, #)\cup(#, \infty)"), ("relation", "x=@"), ("equation", "@=#"), ("chain", "@<x<#"),
         ("matrix", r"\begin{pmatrix}@&#\\#&@\end{pmatrix}"), ("unit", r"@\text{ cm}"), ("ratio", "@:#"),
         ("membership", r"x\in[@,#]"), ("congruence", r"x\equiv @\pmod{#}"),
         ("points removed", r"\mathbb{R}\setminus\{@\}"))
    )  # fmt: skip
    depth = draw.randint(1, 5)
    answer, other = (
        form.replace("@", _expression(draw, depth)).replace("#", _expression(draw, depth - 1)) for _ in range(2)
    )
    return name, answer, draw.choice((other, _near(draw, answer, ""), draw.choice(truths)))


def hostile(draw: random.Random, truths: list[str]) -> tuple[str, str, str]:
    """A hostile shape in some size, alone or beside a real ground truth."""
    name = draw.choice(list(SHAPES))
    text = SHAPES[name].drawn(draw)
    truth = draw.choice((SHAPES[name].truth, draw.choice(truths)))
    return name, draw.choice((text, text, f"{text}, {truth}", f"{truth}={text}", f"{truth}+{text}")), truth


SOURCES: dict[str, tuple[float, Callable[[random.Random, list[str]], tuple[str, str, str]]]] = {
    "mutation": (0.75, mutated),
    "grammar": (0.22, generated),
    "hostile": (0.03, hostile),
}


@dataclass(frozen=True)
class Case:
    """An answer and what it is graded against."""

    source: str
    kind: str
    answer: str
    truth: str


def cases(number: int, seed: int, truths: list[str]) -> Iterator[Case]:
    """As many answers as wanted; the same ones for the same seed and ground truths."""
    draw = random.Random(seed)
    shares = [share for share, _ in SOURCES.values()]
    for source in draw.choices(list(SOURCES), shares, k=number):
        kind, answer, truth = SOURCES[source][1](draw, truths)
        yield Case(source, kind, answer[:LONGEST], truth)


@dataclass
class Graded:
    """What became of a case."""

    case: Case
    outcome: str
    seconds: float


@dataclass
class Watch:
    """Times every job inside the pool's workers and reads their memory, also before one is killed."""

    seconds: threading.local = field(default_factory=threading.local)
    megabytes: dict[int, float] = field(default_factory=dict)

    def look(self, pid: int) -> None:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return
        peak = next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
        self.megabytes[pid] = max(peak, self.megabytes.get(pid, 0.0))

    def install(self) -> None:
        call, stop = pool._Worker.call, pool._Worker.stop

        def timed(worker: pool._Worker, *arguments: object) -> pool.JobResult:
            start = time.perf_counter()
            result = call(worker, *arguments)  # type: ignore[arg-type]
            self.seconds.last = time.perf_counter() - start
            self.look(worker.process.pid)
            return result

        def stopped(worker: pool._Worker) -> None:
            self.look(worker.process.pid)
            stop(worker)

        pool._Worker.call, pool._Worker.stop = timed, stopped  # type: ignore[method-assign, assignment]


def graded(chosen: list[Case], watch: Watch, workers: int) -> Iterator[Graded]:
    """Each case through the reward function."""

    def one(case: Case) -> Graded:
        watch.seconds.last = 0.0
        outcome = reward.compute_score("adversarial", boxed(case.answer), case.truth, workers=workers)["outcome"]
        return Graded(case, outcome, watch.seconds.last)

    with ThreadPoolExecutor(workers) as threads:
        yield from threads.map(one, chosen)


def summary(results: list[Graded], watch: Watch, checked: Counter[str], seed: int, took: float) -> dict[str, object]:
    """What is kept: counts only."""
    seconds = sorted(result.seconds for result in results)
    slowest = max(results, key=lambda result: result.seconds)
    return {
        "command": "python -m benchmarks.adversarial",
        "verifier": verifiers.get("math_verify").version,
        "answers": len(results),
        "seed": seed,
        "of real ground truths": sum(result.case.source == "mutation" for result in results),
        "outcomes": {
            source: dict(Counter(result.outcome for result in results if result.case.source == source).most_common())
            for source in SOURCES
        },
        "slowest": {"seconds": round(slowest.seconds, 2), "source": slowest.case.source, "kind": slowest.case.kind},
        "seconds, median": round(seconds[len(seconds) // 2], 5),
        "seconds, 99.9%": round(seconds[int(0.999 * len(seconds))], 3),
        "timeouts by kind": dict(Counter(r.case.kind for r in results if r.outcome == "timeout").most_common()),
        "errors by kind": dict(Counter(r.case.kind for r in results if r.outcome == "error").most_common()),
        "megabytes of a worker, largest": round(max(watch.megabytes.values(), default=0.0)),
        "workers started": len(watch.megabytes),
        "correct by the second way": dict(checked.most_common()),
        "minutes": round(took / 60, 1),
    }


def main(
    files: Annotated[list[Path], typer.Argument(help="parquet files of ground truths, or folders of them")],
    number: Annotated[int, typer.Option(help="answers")] = 100_000,
    seed: Annotated[int, typer.Option()] = 0,
    workers: Annotated[int, typer.Option(help="grading processes")] = 2,
    listing: Annotated[Path | None, typer.Option(help="JSON lines of what is slow, failed or unconfirmed")] = None,
    keep: Annotated[bool, typer.Option(help=f"write the counts to {RESULTS.name}/adversarial.json")] = False,
) -> None:
    """Search for answers that hang, blow up or fool the verifier."""
    truths = sorted({truth for file in parquet_files(files) for truth in ground_truths(file)})
    # Whole numbers are nine tenths of the files and all alike.
    whole = [truth for truth in truths if truth.lstrip("-").isdigit()]
    others = [truth for truth in truths if not truth.lstrip("-").isdigit()]
    truths = others + random.Random(seed).sample(whole, min(len(whole), len(others) // 4))
    watch = Watch()
    watch.install()
    start = time.perf_counter()
    chosen = list(cases(number, seed, truths))
    results = list(track(graded(chosen, watch, workers), total=number, console=Console(file=sys.stderr)))
    right = [result.case for result in results if result.outcome == "correct"]
    verdicts = list(agree([(case.truth, case.answer) for case in right], workers))
    took = time.perf_counter() - start
    report = summary(results, watch, Counter(verdict.name for verdict in verdicts), seed, took)
    console.print_json(json.dumps(report))
    if listing is not None:
        rows = [
            {**asdict(result.case), "outcome": result.outcome, "seconds": round(result.seconds, 3)}
            for result in results
            if result.outcome in ("timeout", "error") or result.seconds > 0.5
        ]
        rows += [
            {**asdict(case), "outcome": "correct", "second way": verdict.name}
            for case, verdict in zip(right, verdicts, strict=True)
            if verdict not in (Verdict.SAME_TEXT, Verdict.AGREES)
        ]
        listing.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if keep:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "adversarial.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
