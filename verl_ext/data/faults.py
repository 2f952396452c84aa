"""What is wrong with a source: all faults at once, each with its rows."""

from __future__ import annotations

from dataclasses import dataclass, field

SHOWN = 20


@dataclass(frozen=True)
class Place:
    """A row of the source, counted from 0, its key, and what is seen there."""

    row: int
    key: str
    seen: str

    def __str__(self) -> str:
        return f"row {self.row} [{self.key}] {self.seen}"


@dataclass
class Fault:
    """One kind of fault and where it is found; no places if it is one of the whole source."""

    what: str
    places: list[Place] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.places:
            return self.what
        count = len(self.places)
        shown = [f"    {place}" for place in self.places[:SHOWN]]
        more = [f"    and {count - SHOWN} more"] if count > SHOWN else []
        return "\n".join([f"{count} row{'s' if count > 1 else ''}: {self.what}", *shown, *more])


class Faults:
    """Faults by kind, in the order of their first appearance."""

    def __init__(self) -> None:
        self._kinds: dict[str, Fault] = {}
        self.of = ""
        """What stands before each kind that is added: whose faults they are."""

    def add(self, what: str, place: Place | None = None) -> None:
        what = f"{self.of}{what}"
        fault = self._kinds.setdefault(what, Fault(what))
        if place is not None:
            fault.places.append(place)

    def all(self) -> list[Fault]:
        return list(self._kinds.values())

    def __bool__(self) -> bool:
        return bool(self._kinds)


class DataError(ValueError):
    """A source that is not fit for use. `faults` are all that were found."""

    def __init__(self, name: str, faults: Faults) -> None:
        self.faults = faults.all()
        lines = "\n".join(f"  - {fault}" for fault in self.faults)
        super().__init__(f"{name}: nothing was written, for these faults:\n{lines}\n{_ADVICE}")


_ADVICE = (
    "Correct the source. A row that is faulty and known to be so can be named, with a reason, in a file for "
    '--exemptions: a JSON list of {"key": ..., "action": "exclude" or "keep", "reason": ...}; the key stands in '
    "brackets above, and the manifest reports each."
)
