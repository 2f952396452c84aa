"""Which problems of a benchmark a training set holds: exactly, but for the look, or in long pieces."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from verl_ext.data.text import canonical, normalised, words

Kind = Literal["exact", "normalised", "overlap"]


@dataclass(frozen=True)
class Item:
    """A problem of a prepared file."""

    index: int
    problem: str
    answer: str


@dataclass(frozen=True)
class Pair:
    """A problem of a benchmark and one of the training set.

    Attributes:
        benchmark: its name.
        index, train_index: rows of the prepared files.
        kind: how they agree; the strongest that holds.
        share: of the benchmark problem's n-grams that the training problem has; 1 where the texts are equal.
        same_answer: whether the answers have the same normalised text.
        problem, train_problem: the texts.
    """

    benchmark: str
    index: int
    train_index: int
    kind: Kind
    share: float
    same_answer: bool
    problem: str
    train_problem: str


@dataclass(frozen=True)
class Row:
    """A benchmark, in numbers of its problems; each problem counts once, for the strongest agreement.

    Attributes:
        too_short: problems of fewer than n words, which no n-gram can find.
        mean_share: over the others, the mean share of n-grams that the whole training set has.
    """

    benchmark: str
    problems: int
    exact: int
    normalised: int
    overlap: int
    too_short: int
    mean_share: float

    @property
    def found(self) -> int:
        return self.exact + self.normalised + self.overlap


@dataclass(frozen=True)
class Report:
    """A finished comparison; `pairs` in the order of the benchmarks and their rows."""

    train: str
    train_problems: int
    ngram: int
    threshold: float
    rows: Sequence[Row]
    pairs: Sequence[Pair]

    def data(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def read(parquet: Path) -> list[Item]:
    """The problems of a file that `verl_ext.data.prepare` wrote.

    Raises:
        ValueError: if it is another file.
    """
    import pyarrow.parquet as pq

    found = pq.read_table(parquet).to_pylist()
    if not found or "problem" not in (found[0].get("extra_info") or {}):
        raise ValueError(f"{parquet} was not written by `verl-ext data prepare`: it has no extra_info.problem")
    return [
        Item(r["extra_info"]["index"], r["extra_info"]["problem"], r["reward_model"]["ground_truth"]) for r in found
    ]


def compare(
    name: str, train: Sequence[Item], benchmarks: Mapping[str, Sequence[Item]], ngram: int = 13, threshold: float = 0.5
) -> Report:
    """Put every problem of every benchmark beside the whole training set.

    Args:
        name: of the training set.
        train: its problems.
        benchmarks: by name.
        ngram: words in a row that count as a piece.
        threshold: smallest share of a benchmark problem's pieces, in one training problem, that makes a pair.

    Raises:
        ValueError: if `ngram` or `threshold` make no sense.

    Example:
        >>> same = [Item(0, "What is $1+1$?", "2")]
        >>> report = compare("train", [Item(7, "What is  1 + 1 ?", "2")], {"bench": same}, ngram=3)
        >>> [(pair.train_index, pair.kind, pair.same_answer) for pair in report.pairs]
        [(7, 'normalised', True)]
    """
    if ngram < 2 or not 0 < threshold <= 1:
        raise ValueError(f"need at least 2 words and a threshold in (0, 1], got {ngram} and {threshold:g}")
    by_form = {
        "exact": _index(train, canonical),
        "normalised": _index(train, normalised),
    }
    wanted = {gram for items in benchmarks.values() for item in items for gram in grams(item.problem, ngram)}
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for position, item in enumerate(train):
        for gram in grams(item.problem, ngram) & wanted:
            holders[gram].append(position)
    rows, pairs = [], []
    for benchmark, items in benchmarks.items():
        row, found = _benchmark(benchmark, items, train, by_form, holders, ngram, threshold)
        rows.append(row)
        pairs += found
    return Report(name, len(train), ngram, threshold, rows, pairs)


def grams(text: str, size: int) -> set[tuple[str, ...]]:
    """All runs of `size` words.

    Example:
        >>> sorted(grams("one two three", 2))
        [('one', 'two'), ('two', 'three')]
    """
    found = words(text)
    return {tuple(found[start : start + size]) for start in range(len(found) - size + 1)}


def _index(train: Sequence[Item], form: Callable[[str], str]) -> dict[str, list[int]]:
    found = defaultdict(list)
    for position, item in enumerate(train):
        found[form(item.problem)].append(position)
    return dict(found)


def _benchmark(
    name: str,
    items: Sequence[Item],
    train: Sequence[Item],
    by_form: Mapping[str, Mapping[str, list[int]]],
    holders: Mapping[tuple[str, ...], list[int]],
    ngram: int,
    threshold: float,
) -> tuple[Row, list[Pair]]:
    counts = {"exact": 0, "normalised": 0, "overlap": 0}
    pairs: list[Pair] = []
    shares = []
    for item in items:
        pieces = grams(item.problem, ngram)
        if pieces:
            shares.append(sum(piece in holders for piece in pieces) / len(pieces))
        agreements = list(_agreements(item, pieces, by_form, holders, threshold))
        if agreements:
            counts[agreements[0][1]] += 1
        for position, kind, share in agreements:
            other = train[position]
            same = normalised(item.answer) == normalised(other.answer)
            pairs.append(Pair(name, item.index, other.index, kind, share, same, item.problem, other.problem))
    mean = sum(shares) / len(shares) if shares else 0.0
    return Row(name, len(items), **counts, too_short=len(items) - len(shares), mean_share=mean), pairs


def _agreements(
    item: Item,
    pieces: set[tuple[str, ...]],
    by_form: Mapping[str, Mapping[str, list[int]]],
    holders: Mapping[tuple[str, ...], list[int]],
    threshold: float,
) -> Iterator[tuple[int, Kind, float]]:
    """Positions in the training set, strongest agreement first."""
    seen = set()
    for kind, text in (("exact", canonical(item.problem)), ("normalised", normalised(item.problem))):
        for position in by_form[kind].get(text, []):
            if position not in seen:
                seen.add(position)
                yield position, kind, 1.0  # type: ignore[misc]
    counts: dict[int, int] = defaultdict(int)
    for piece in pieces:
        for position in holders.get(piece, ()):
            counts[position] += 1
    for position in sorted(counts, key=lambda position: (-counts[position], position)):
        share = counts[position] / len(pieces)
        if position not in seen and share >= threshold:
            yield position, "overlap", share
