"""Find where a delimiter ends in sequences of tokens, for all rows at once.

A search is in one of S states, the number of bytes of the delimiter matched so far. The effect of a token is a state
after it for each state before. Effects compose, so the state before each token is found in windows of 1, 2, 4, ...
tokens instead of one token after another.

Shapes: B rows, T tokens; S states of the search, E effects, A tokens that are not without effect, U of them whose state
before is not known at once.
"""

from __future__ import annotations

import torch
from torch import Tensor


class SearchInBits:
    """The search for a delimiter of one or two bytes: a state is a bit, so tokens are composed by bitwise operations.

    Args:
        next_states: [E, S] long, state after for each effect and state before; S is 1 or 2.
        ends: [E, S] bool, whether an occurrence ends.
    """

    def __init__(self, next_states: Tensor, ends: Tensor) -> None:
        bits = torch.stack([next_states[:, 0], next_states[:, -1], ends[:, 0], ends[:, -1]], dim=-1)
        self.codes = (bits << torch.arange(4)).sum(dim=-1)  # [E], 0 for effect 0

    def ends(self, codes: Tensor) -> Tensor:
        """Whether an occurrence ends in each token, [B, T] bool; `codes` [B, T], 0 behind the mask."""
        after_0, after_1, ends_0, ends_1 = ((codes >> bit) & 1 for bit in range(4))
        after_1[:, :1] = after_0[:, :1]  # a row begins in state 0
        reach = 1
        # uint8 and max, because `any` of a bool tensor takes twenty times as long.
        while codes.numel() and (open_ := after_0 ^ after_1).max():
            start, here = open_[:, reach:], after_0[:, reach:]
            new_0, new_1 = here ^ (start & after_0[:, :-reach]), here ^ (start & after_1[:, :-reach])
            after_0[:, reach:], after_1[:, reach:] = new_0, new_1
            reach *= 2
        ends = ends_0.clone()
        ends[:, 1:] ^= (ends_0 ^ ends_1)[:, 1:] & after_0[:, :-1]
        return ends.bool()


class Search:
    """The search for a delimiter of any length: only tokens that are not without effect are looked at.

    Args:
        next_states: [E, S] long, state after for each effect and state before.
        ends: [E, S] bool, whether an occurrence ends.
    """

    def __init__(self, next_states: Tensor, ends: Tensor) -> None:
        self._next, self._ends = next_states, ends
        self._resets = (next_states == next_states[:, :1]).all(dim=1)  # [E] bool
        self.codes = torch.arange(len(ends))

    def ends(self, codes: Tensor) -> Tensor:
        """Whether an occurrence ends in each token, [B, T] bool; `codes` [B, T], 0 behind the mask."""
        active = codes.flatten().nonzero()[:, 0]  # [A]
        kind = codes.flatten().index_select(0, active).long()
        linked = _follows(active) & (active % codes.shape[-1] != 0)
        after = self._next[:, 0].take(kind)  # [A] state after each; true of a run's first token and of those that reset
        unknown = (linked & ~self._resets.take(kind)).nonzero()[:, 0]
        after[unknown] = self._compose(kind.take(unknown), _follows(unknown), after.take(unknown - 1))
        before = torch.where(linked, after.roll(1), 0)
        found = torch.zeros(codes.shape, dtype=torch.bool)
        found.view(-1)[active] = self._ends.take(kind * self._ends.shape[-1] + before)
        return found

    def _compose(self, kind: Tensor, linked: Tensor, before: Tensor) -> Tensor:
        """State after each of U tokens: those `linked` follow the one before, the others the state `before`; [U]."""
        # after[i, s]: state after token i, where s is the state before the first of the tokens composed so far.
        after = self._next.index_select(0, kind)  # [U, S]
        after = torch.where(linked[:, None], after, after.gather(1, before[:, None]))
        reach = 1
        # What does not depend on s is final. Every run begins with such a token, so no window leaves its run.
        while bool((after != after[:, :1]).any()):
            after = torch.cat([after[:reach], after[reach:].gather(1, after[:-reach])])
            reach *= 2
        return after[:, 0]


class Automaton:
    """The search for one delimiter, and the effects that texts have on it, numbered as they are met.

    Effect number 0 is that of most texts: whatever the state before, state 0 after, and nothing ends.

    Attributes:
        next_states: for each effect, the state after for each state before.
        ends: for each effect, whether an occurrence ends in the text, for each state before.
    """

    def __init__(self, delimiter: bytes) -> None:
        self._delimiter = delimiter
        self.next_states: list[tuple[int, ...]] = []
        self.ends: list[tuple[bool, ...]] = []
        self._numbers: dict[tuple[tuple[int, ...], tuple[bool, ...]], int] = {}
        self._continued: dict[tuple[int, int], int] = {}
        nothing = (False,) * len(delimiter)
        self._number((0,) * len(delimiter), nothing)
        self._empty = self._number(tuple(range(len(delimiter))), nothing)

    def effect(self, text: bytes) -> int:
        """Number of the effect of a text."""
        number = self._empty
        for byte in text:
            step = (number, byte)
            if step not in self._continued:
                self._continued[step] = self._follow(number, byte)
            number = self._continued[step]
        return number

    def _number(self, next_states: tuple[int, ...], ends: tuple[bool, ...]) -> int:
        number = self._numbers.setdefault((next_states, ends), len(self._numbers))
        if number == len(self.ends):
            self.next_states.append(next_states)
            self.ends.append(ends)
        return number

    def _follow(self, number: int, byte: int) -> int:
        """Effect of a text of effect `number` with one more byte."""
        after = [self._step(state, byte) for state in self.next_states[number]]
        ends = [ended or state == len(self._delimiter) for ended, state in zip(self.ends[number], after, strict=True)]
        return self._number(tuple(state % len(self._delimiter) for state in after), tuple(ends))

    def _step(self, state: int, byte: int) -> int:
        """How much of the delimiter stands at the end of its first `state` bytes and this one."""
        seen = self._delimiter[:state] + bytes([byte])
        return next(size for size in range(len(seen), -1, -1) if seen.endswith(self._delimiter[:size]))


def _follows(positions: Tensor) -> Tensor:
    """Whether each of some ascending positions is next to the one before it in the list."""
    return positions.diff(prepend=positions[:1]) == 1
