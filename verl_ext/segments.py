"""Segments of a response: stretches of tokens that end where a delimiter of the text ends.

SSPO, arXiv 2511.04256, section 4.1. What the paper leaves open is in docs/methods/sspo.md.

The texts of tokens are those of verl_ext.vocabulary, in which ordinary text stands for itself, so a table may be
written by hand. A character that is spread over several tokens is put together again, and the delimiter, searched among
the bytes, is found exactly where it stands in the text.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from verl_ext import grouping as grp
from verl_ext.delimiter_search import Automaton, Search, SearchInBits
from verl_ext.vocabulary import as_bytes, vocab_text

__all__ = ["SegmentTable", "segment_ids", "segment_table", "vocab_text"]

RECENT_TABLES = 4


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
        >>> from verl_ext.toy.models import build_tokenizer
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
        automaton = Automaton(as_bytes(delimiter))
        effects = [automaton.effect(as_bytes(text)) for text in vocab_text]
        effects.append(automaton.effect(b""))  # of ids beyond the table
        # Reading it at random is the dearest step, and a small table stays in the cache.
        small = torch.uint8 if max(effects) < 256 else torch.int32
        search = SearchInBits if len(automaton.ends[0]) <= 2 else Search
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


_recent: deque[tuple[list[str], SegmentTable]] = deque(maxlen=RECENT_TABLES)
_tables: WeakKeyDictionary[Any, dict[tuple[str, int], SegmentTable]] = WeakKeyDictionary()
