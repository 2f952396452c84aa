"""What the plugin remembers between steps, and a resumed run must have again: streaks, counters, schedules.

Whoever keeps such state registers one small object under a name of its own; the checkpoint code saves `state()` with
each checkpoint and hands it to `restore()` when the run is resumed. It holds plain numbers, strings, lists and
dictionaries only, so that it can be written as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Stateful(Protocol):
    """An object whose state is saved with each checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """The state, of types that JSON knows."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state of another run over."""
        ...


_registered: dict[str, Stateful] = {}
# What a checkpoint held for names that nobody has registered yet: handed over at registration.
_waiting: dict[str, dict[str, Any]] = {}


def register(name: str, holder: Stateful) -> None:
    """Have the holder's state saved and restored under `name`; a later holder of that name replaces an earlier one.

    State that was restored before its holder came is handed to it now.
    """
    _registered[name] = holder
    if name in _waiting:
        holder.load_state_dict(_waiting.pop(name))


def state() -> dict[str, dict[str, Any]]:
    """Name -> state of every holder, and what is still waiting for one."""
    return {**_waiting, **{name: holder.state_dict() for name, holder in _registered.items()}}


def restore(saved: Mapping[str, dict[str, Any]]) -> None:
    """Hand a saved `state()` to the holders; what has no holder yet waits for one and is not lost."""
    for name, found in saved.items():
        if name in _registered:
            _registered[name].load_state_dict(dict(found))
        else:
            _waiting[name] = dict(found)


def clear() -> None:
    """Forget every holder and all waiting state; for tests."""
    _registered.clear()
    _waiting.clear()
