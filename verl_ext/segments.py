"""Segments of a response: stretches of tokens that end where a delimiter of the text ends.

SSPO, arXiv 2511.04256, section 4.1. What the paper leaves open is in docs/methods/sspo.md.

The text of a token is a `str` that stands for bytes: UTF-8, in which a byte that is no part of a whole character of
this token is written as a lone surrogate (Python's `surrogateescape`). Ordinary text is itself in this form, so a
table of texts may be written by hand; a character that is spread over several tokens is put together again; and
the delimiter, searched among the bytes, is found exactly where it stands in the text.

Shapes: B rows, T tokens, V vocabulary; S states of the search, one for each byte of the delimiter; E effects that a
token can have on it; A tokens that are not without effect, U of them with an effect that depends on the state before.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from verl_ext import grouping as grp

BYTE_PIECE = re.compile("<0x([0-9A-Fa-f]{2})>")
RECENT_TABLES = 4


def vocab_text(tokenizer: Any) -> list[str]:
    """The text of every token id of a Hugging Face tokenizer, fast or slow; index = id.

    Byte-level vocabularies (GPT-2, Qwen, Llama 3) and sentencepiece ones (Llama 2, Mistral, Gemma) are read piece by
    piece. Any other kind is asked to decode each token behind another one, which costs a call a token.

    A special token (end of text, padding, roles of a chat) has the empty text, as has an id that the vocabulary skips:
    neither can hold a delimiter, nor come between its parts. An added token that is not special is its content.

    Args:
        tokenizer: a `transformers` tokenizer.

    Returns:
        one text an id, up to the greatest id. A token that holds a part of a character has its bytes as lone
        surrogates, which `text.encode("utf-8", "surrogateescape")` turns back.

    Example:
        >>> from verl_ext.demo.models import build_tokenizer
        >>> texts = vocab_text(build_tokenizer())
        >>> texts[10], texts[55], texts[257]
        ('\\n', '7', '')
    """
    pieces = {index: piece for piece, index in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    special = {index for index, token in added.items() if token.special} | set(tokenizer.all_special_ids)
    to_text = _reader(tokenizer)
    texts = [""] * (max([*pieces, *added], default=-1) + 1)
    for index, piece in pieces.items():
        if index not in special:
            texts[index] = added[index].content if index in added else to_text(piece, index)
    return texts


def segment_ids(token_ids: Tensor, response_mask: Tensor, vocab_text: list[str], delimiter: str) -> Tensor:
    """Number the segments of each row; see `SegmentTable`, of which the last few are kept.

    Whoever has a tokenizer takes `segment_table(tokenizer, delimiter).ids` instead, which reads the vocabulary once.

    Args:
        token_ids: [B, T] long; ignored where the mask is 0.
        response_mask: [B, T] bool or 0/1.
        vocab_text: V texts, index = id.
        delimiter: text whose end is the end of a segment.

    Returns:
        [B, T] long, 0-based and consecutive in each row, -1 where the mask is 0.

    Raises:
        ValueError: an empty delimiter, shapes that differ, or a negative token id where the mask is 1.

    Example:
        >>> import torch
        >>> texts = ["a", "b", ".\\n\\n", "\\n"]
        >>> segment_ids(torch.tensor([[0, 3, 3, 1, 2, 0]]), torch.ones(1, 6), texts, "\\n\\n").tolist()
        [[0, 0, 0, 1, 1, 2]]
    """
    for known, table in _recent:
        # Comparing takes 0.1 ms for 150,000 texts, and a list that was changed in place is seen.
        if table.delimiter == delimiter and known == vocab_text:
            return table.ids(token_ids, response_mask)
    table = SegmentTable(vocab_text, delimiter)
    _recent.append((vocab_text[:], table))
    return table.ids(token_ids, response_mask)


def segment_table(tokenizer: Any, delimiter: str) -> SegmentTable:
    """The table of a tokenizer's vocabulary: made once, and kept as long as the tokenizer lives and does not grow.

    Args:
        tokenizer: a `transformers` tokenizer.
        delimiter: text whose end is the end of a segment.

    Raises:
        ValueError: an empty delimiter.

    Example:
        >>> import torch
        >>> from verl_ext.demo.models import build_tokenizer
        >>> tokenizer = build_tokenizer()
        >>> token_ids = torch.tensor([tokenizer.encode("7\\n\\n8")])
        >>> segment_table(tokenizer, "\\n\\n").ids(token_ids, torch.ones_like(token_ids)).tolist()
        [[0, 0, 0, 1]]
    """
    tables = _tables.setdefault(tokenizer, {})
    key = (delimiter, len(tokenizer))
    if key not in tables:
        tables[key] = SegmentTable(vocab_text(tokenizer), delimiter)
    return tables[key]


class SegmentTable:
    """What each token of a vocabulary does to the search for a delimiter.

    Within each unbroken run of valid tokens the texts are concatenated. Each occurrence of the delimiter, found left to
    right without overlap, ends a segment at the token that holds its last byte; several occurrences that end in one
    token close one segment. A gap in the mask ends a segment, and no delimiter spans it. The last segment ends at the
    last valid token. A token with an empty text, and an id beyond the table (a padded embedding row), belongs to the
    segment it stands in.

    Such a search is in one of S states, the number of bytes of the delimiter matched so far. A token takes each state
    to another one, and ends a segment or not. The state before each token is found by composing the tokens of a row in
    windows of 1, 2, 4, ... until no window depends on the state before it: most tokens lead to state 0 from any.

    Args:
        vocab_text: V texts, index = id, as from `vocab_text(tokenizer)` or written by hand.
        delimiter: text whose end is the end of a segment.

    Raises:
        ValueError: an empty delimiter.
    """

    def __init__(self, vocab_text: Sequence[str], delimiter: str) -> None:
        if not delimiter:
            raise ValueError("the delimiter of segments must not be empty; SSPO's own is a double line break")
        automaton = _Automaton(_as_bytes(delimiter))
        effects = [automaton.effect(_as_bytes(text)) for text in vocab_text]
        effects.append(automaton.effect(b""))  # of ids beyond the table
        # Reading it at random is the dearest step, and a small table stays in the cache.
        small = torch.uint8 if max(effects) < 256 else torch.int32
        search = _SearchInBits if len(automaton.ends[0]) <= 2 else _Search
        self.delimiter = delimiter
        self._search = search(torch.tensor(automaton.next_states), torch.tensor(automaton.ends))
        self._codes = self._search.codes.to(small)[torch.tensor(effects)]  # [V + 1]

    def ids(self, token_ids: Tensor, response_mask: Tensor) -> Tensor:
        """The segment of each token; arguments, result and errors as in `segment_ids`."""
        grp.check_same_shape(token_ids=token_ids, response_mask=response_mask)
        device = token_ids.device
        token_ids, mask = token_ids.cpu(), response_mask.cpu().bool()  # where the controller has them anyway
        codes = self._codes.index_select(0, self._within(token_ids, mask).flatten()).view(mask.shape).mul_(mask)
        continued = mask & ~self._search.ends(codes)
        # A token that starts a segment is valid and does not continue the one before it.
        starts = mask.clone()
        starts[:, 1:] &= ~continued[:, :-1]
        return torch.where(mask, starts.cumsum(dim=-1).sub_(1), -1).to(device)

    def _within(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        """Ids in the range of the table, whatever stands behind the mask."""
        if not token_ids.numel():
            return token_ids
        least, greatest = token_ids.aminmax()
        if least < 0:
            negative = token_ids[mask & (token_ids < 0)]
            if len(negative):
                raise ValueError(f"token_ids holds {negative[0].item()} where the mask is 1; an id is 0 or greater")
        end = len(self._codes) - 1
        return token_ids if least >= 0 and greatest <= end else token_ids.clamp(0, end)


class _SearchInBits:
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


class _Search:
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


class _Automaton:
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


_recent: deque[tuple[list[str], SegmentTable]] = deque(maxlen=RECENT_TABLES)
_tables: WeakKeyDictionary[Any, dict[tuple[str, int], SegmentTable]] = WeakKeyDictionary()


def _follows(positions: Tensor) -> Tensor:
    """Whether each of some ascending positions is next to the one before it in the list."""
    return positions.diff(prepend=positions[:1]) == 1


def _as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _as_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _reader(tokenizer: Any) -> Callable[[str, int], str]:
    """(piece of the vocabulary, its id) -> text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = [] if backend is None else [*_components(backend.decoder), *_components(backend.pre_tokenizer)]
    kinds = {part["type"] for part in parts}
    if hasattr(tokenizer, "byte_decoder") or "ByteLevel" in kinds:
        byte_of = getattr(tokenizer, "byte_decoder", None) or _byte_symbols()
        return lambda piece, _: _byte_level_text(piece, byte_of)
    spaces = ["\u2581"] * hasattr(tokenizer, "sp_model")
    spaces += [part["replacement"] for part in parts if part["type"] == "Metaspace"]
    replaced = [part["pattern"] for part in parts if part["type"] == "Replace" and part["content"] == " "]
    spaces += [pattern["String"] for pattern in replaced if "String" in pattern]
    if spaces or "ByteFallback" in kinds:
        return lambda piece, _: _sentencepiece_text(piece, spaces)
    return _decoded_behind_another(tokenizer)


def _components(component: Any) -> Iterator[dict[str, Any]]:
    """The parts of a decoder or pre-tokenizer of the `tokenizers` library, in its own JSON form."""
    pending = [] if component is None else [json.loads(component.__getstate__())]
    while pending:
        part = pending.pop()
        yield part
        pending += part.get("decoders", []) + part.get("pretokenizers", [])


def _byte_symbols() -> dict[str, int]:
    """GPT-2's byte characters: printable Latin-1 bytes stand for themselves, the others follow from U+0100 on."""
    from tokenizers.pre_tokenizers import ByteLevel

    codes = sorted(map(ord, ByteLevel.alphabet()))
    plain = [code for code in codes if code < 256]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(code): byte for code, byte in zip(codes, plain + others, strict=True)}


def _byte_level_text(piece: str, byte_of: dict[str, int]) -> str:
    # A piece with any other character stands for itself, as for the decoder of the `tokenizers` library.
    return _as_text(bytes(byte_of[symbol] for symbol in piece)) if all(s in byte_of for s in piece) else piece


def _sentencepiece_text(piece: str, spaces: list[str]) -> str:
    byte = BYTE_PIECE.fullmatch(piece)
    if byte:
        return _as_text(bytes.fromhex(byte[1]))
    for space in spaces:
        piece = piece.replace(space, " ")
    return piece


def _decoded_behind_another(tokenizer: Any) -> Callable[[str, int], str]:
    """Decoding a token alone would lose a leading space, so it is decoded behind another one."""
    special = set(tokenizer.all_special_ids)
    first = next(index for index in sorted(tokenizer.get_vocab().values()) if index not in special)

    def decode(*ids: int) -> str:
        return tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)

    return lambda _, index: decode(first, index).removeprefix(decode(first))
