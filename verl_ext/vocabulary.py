"""The text of every token of a Hugging Face tokenizer, exact to the byte.

The text of a token is a `str` that stands for bytes: UTF-8, in which a byte that is no part of a whole character of
this token is written as a lone surrogate (Python's `surrogateescape`). Ordinary text is itself in this form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

BYTE_PIECE = re.compile("<0x([0-9A-Fa-f]{2})>")


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
        >>> from verl_ext.toy.models import build_tokenizer
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


def as_bytes(text: str) -> bytes:
    """The bytes that a token's text stands for."""
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
