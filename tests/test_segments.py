"""Segment ids against a string search in plain Python, by hand, and on tokenizers of every kind."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import AddedToken, PreTrainedTokenizerFast

from verl_ext import vocabulary
from verl_ext.segments import SegmentTable, segment_ids, segment_table, vocab_text
from verl_ext.toy.models import build_tokenizer, byte_symbols

BREAK = "\n\n"
GARBAGE = [-100, -1, 0, 1, 10**9]  # ids that stand behind the mask


def search(token_ids: list[int], mask: list[int], texts: list[str], delimiter: str) -> list[int]:
    """One row by the definition: a string search in every run of valid tokens."""
    found, segment, start = [-1] * len(mask), 0, 0
    while start < len(mask):
        if not mask[start]:
            start += 1
            continue
        stop = next((t for t in range(start, len(mask)) if not mask[t]), len(mask))
        pieces = [texts[index] if index < len(texts) else "" for index in token_ids[start:stop]]
        owner = [t for t, piece in enumerate(pieces, start) for _ in piece]  # the token of each character
        closing, at = {stop - 1}, "".join(pieces).find(delimiter)
        while at >= 0:
            closing.add(owner[at + len(delimiter) - 1])
            at = "".join(pieces).find(delimiter, at + len(delimiter))
        for t in range(start, stop):
            found[t] = segment
            segment += t in closing
        start = stop
    return found


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]], list[str], str]:
    """Rows of ids, masks, and a vocabulary of so few letters that the delimiter overlaps itself and spans tokens."""
    alphabet = draw(st.sampled_from(["a", "ab", "a\n", "aé\n", "a。、"]))
    delimiter = draw(st.text(alphabet, min_size=1, max_size=4))
    texts = draw(st.lists(st.text(alphabet, max_size=5), min_size=1, max_size=6))
    width, rows = draw(st.integers(0, 14)), draw(st.integers(0, 4))
    known = st.integers(0, len(texts) + 1)  # two ids beyond the table
    masks = [draw(st.lists(st.integers(0, 4).map(bool), min_size=width, max_size=width)) for _ in range(rows)]
    ids = [[draw(known if valid else st.sampled_from(GARBAGE)) for valid in mask] for mask in masks]
    return ids, [[int(valid) for valid in mask] for mask in masks], texts, delimiter


@settings(max_examples=500, deadline=None)
@given(problems())
def test_agrees_with_a_string_search(problem: Any) -> None:
    ids, masks, texts, delimiter = problem
    width = len(masks[0]) if masks else 3
    got = segment_ids(as_rows(ids, width), as_rows(masks, width), texts, delimiter)
    assert got.dtype == torch.long
    assert got.shape == (len(masks), width)
    assert got.tolist() == [search(*row, texts, delimiter) for row in zip(ids, masks, strict=True)]


def as_rows(rows: list[list[int]], width: int) -> Tensor:
    return torch.tensor(rows, dtype=torch.long).view(len(rows), width)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("delimiter", ["aa", "aba", "aabaa", "ab"])
def test_long_runs_without_a_reset(delimiter: str, seed: int) -> None:
    """Hundreds of tokens in a row of which each depends on the one before."""
    texts = ["a", "aa", "", "ba"]
    ids = torch.randint(2 + seed % 3, (2, 600), generator=torch.Generator().manual_seed(seed))
    got = segment_ids(ids, torch.ones(2, 600), texts, delimiter)
    assert got.tolist() == [search(row, [1] * 600, texts, delimiter) for row in ids.tolist()]


@pytest.mark.parametrize(
    ("words", "delimiter", "expected"),
    [
        # The delimiter inside a token, at its end, and in its middle.
        (["a", ".\n\n", "b", "c\n\nd", "e"], BREAK, [0, 0, 1, 1, 2]),
        # Spread over two tokens, and over three.
        (["a", ".\n", "\nb", "c"], BREAK, [0, 0, 0, 1]),
        (["<", "/", ">", "x"], "</>", [0, 0, 0, 1]),
        # Without overlap: of four line breaks two pairs; of three, one pair and a rest that the fourth does not meet.
        (["\n", "\n", "\n", "\n", "a"], BREAK, [0, 0, 1, 1, 2]),
        (["\n", "\n", "\n", "a", "\n"], BREAK, [0, 0, 1, 1, 1]),
        # "aba" at 0; the next would begin at its last letter, which is used up.
        (["aba", "b", "a", "c"], "aba", [0, 1, 1, 1]),
        # A first letter that turns out to be a false start: "aab" in "aaab".
        (["a", "a", "a", "b", "c"], "aab", [0, 0, 0, 0, 1]),
        # Several in one token close one segment, and the odd line break goes on.
        (["a\n\n\n\nb", "c"], BREAK, [0, 1]),
        (["a\n\n\n", "\n", "c"], BREAK, [0, 1, 2]),
        # Empty texts belong to where they stand, and the delimiter is found around them.
        (["a", "\n", "", "\n", "", "b"], BREAK, [0, 0, 0, 0, 1, 1]),
        # The last token ends the last segment in any case; no empty one follows.
        (["a", "\n\n"], BREAK, [0, 0]),
        (["\n\n"], BREAK, [0]),
        ([".", ".", "a."], ".", [0, 1, 2]),
        (["一", "。二", "三"], "。", [0, 0, 1]),
    ],
)
def test_by_hand(words: list[str], delimiter: str, expected: list[int]) -> None:
    texts = sorted(set(words))
    ids = torch.tensor([[texts.index(word) for word in words]])
    assert segment_ids(ids, torch.ones_like(ids), texts, delimiter).tolist() == [expected]


def test_gaps_end_segments_and_are_not_spanned() -> None:
    texts = ["a", "\n", "\n\n"]
    ids = torch.tensor([[0, 1, 2, 1, 0], [1, 1, 1, 1, 0], [2, 0, 0, 0, 0], [2, 2, 2, 2, 2]])
    mask = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 0, 1, 1], [1, 0, 0, 0, 1], [0, 0, 0, 0, 0]])
    # Row 0: "a\n", a gap, "\na": the line breaks on both sides do not make two. Row 2: "\n\n" closes segment 0, and
    # the gap behind it does not close another one. A row begins anew whatever the row above ended with.
    assert segment_ids(ids, mask, texts, BREAK).tolist() == [
        [0, 0, -1, 1, 1],
        [-1, 0, -1, 1, 1],
        [0, -1, -1, -1, 1],
        [-1, -1, -1, -1, -1],
    ]
    pairs = torch.tensor([[0, 1], [1, 0]])  # the line breaks that touch are in different rows
    assert segment_ids(pairs, torch.ones(2, 2), texts, BREAK).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_nothing_to_number(shape: tuple[int, int]) -> None:
    empty = torch.zeros(shape, dtype=torch.long)
    got = segment_ids(empty, torch.ones(shape), ["a"], BREAK)
    assert got.shape == shape
    assert got.dtype == torch.long


def test_ids_beyond_the_table_are_empty_texts() -> None:
    ids = torch.tensor([[0, 7, 0, 1]])  # an embedding padded to a round number of rows
    assert segment_ids(ids, torch.ones(1, 4), ["\n", "a"], BREAK).tolist() == [[0, 0, 0, 1]]


def test_inputs_are_left_alone_and_may_have_any_layout() -> None:
    ids = torch.tensor([[0, 1], [1, 0], [0, 0]], dtype=torch.int32).T
    mask = torch.tensor([[1], [1]]).expand(2, 3)
    kept = ids.clone()
    got = segment_ids(ids, mask, [BREAK, "a"], BREAK)
    assert got.tolist() == [[0, 1, 1], [0, 0, 1]]
    assert torch.equal(ids, kept)


def test_more_effects_than_a_byte_can_number() -> None:
    """A long delimiter, and a vocabulary of all its parts: 1,275 texts that do different things to the search."""
    delimiter = "".join(chr(ord("A") + n) for n in range(50))
    texts = [delimiter[a:b] for a in range(50) for b in range(a + 1, 51)] + ["z"]
    words = ["ABC", delimiter[3:49], delimiter[49:], "ABC", "D", "z", delimiter]
    ids = torch.tensor([[texts.index(word) for word in words]])
    assert segment_ids(ids, torch.ones_like(ids), texts, delimiter).tolist() == [[0, 0, 0, 1, 1, 1, 1]]


def test_a_list_changed_in_place_is_read_again() -> None:
    texts = ["a", "b"]
    ids, mask = torch.tensor([[0, 1, 0]]), torch.ones(1, 3)
    assert segment_ids(ids, mask, texts, "b").tolist() == [[0, 0, 1]]
    texts[1] = "c"
    assert segment_ids(ids, mask, texts, "b").tolist() == [[0, 0, 0]]
    assert segment_ids(ids, mask, texts, "a").tolist() == [[0, 1, 1]]


def test_the_table_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    original = SegmentTable.__init__

    def counted(self: SegmentTable, vocab_text: list[str], delimiter: str) -> None:
        made.append(delimiter)
        original(self, vocab_text, delimiter)

    monkeypatch.setattr(SegmentTable, "__init__", counted)
    texts = ["once", BREAK]
    for _ in range(3):
        segment_ids(torch.tensor([[0, 1]]), torch.ones(1, 2), texts, BREAK)
    assert made == [BREAK]
    tokenizer = build_tokenizer()
    assert segment_table(tokenizer, "\n") is segment_table(tokenizer, "\n")
    assert segment_table(tokenizer, "\n") is not segment_table(tokenizer, ".")
    before = segment_table(tokenizer, "\n")
    tokenizer.add_tokens(["\n\n"])
    assert segment_table(tokenizer, "\n") is not before


@pytest.mark.parametrize(
    ("token_ids", "mask", "delimiter", "words"),
    [
        (torch.zeros(1, 3), torch.ones(1, 3), "", ["delimiter", "empty"]),
        (torch.zeros(1, 3), torch.ones(1, 2), BREAK, ["token_ids", "(1, 3)", "response_mask", "(1, 2)"]),
        (torch.zeros(3), torch.ones(3), BREAK, ["rows, tokens", "(3,)"]),
        (torch.tensor([[-7, 0, -5]]), torch.tensor([[0, 1, 1]]), BREAK, ["token_ids", "-5", "mask is 1"]),
    ],
)
def test_faults_say_what_is_wrong(token_ids: Tensor, mask: Tensor, delimiter: str, words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"delimiter|shape|token_ids") as raised:
        segment_ids(token_ids.long(), mask, ["a"], delimiter)
    for word in words:
        assert word in str(raised.value)


CORPUS = [
    "First, add the two.\n\nThen take half of it.\n\n\nSo the answer is 42.\n",
    "第一步。\n\n然后除以二。\n\n答案是四。 \U0001f600\n\nDone.",
    "x = 1\ny = 2\n\nand\n\n\n\nnothing more",
] * 3
TEXTS = [
    *CORPUS[:3],
    "新词\U0001f9ee。\n\n\n\n。。\n\nÅngström—naïve\n\nß",
    "\n\n\n\n\n",
    " leading and trailing \n\n ",
    "no delimiter at all",
]


def byte_level_bpe() -> PreTrainedTokenizerFast:
    """GPT-2, Qwen, Llama 3: merges across line breaks, and characters that were never merged."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=310, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return with_special(backend)


def sentencepiece_bpe() -> PreTrainedTokenizerFast:
    """Llama 2, Mistral: ▁ for a space, and <0x0A> for what the vocabulary lacks."""
    space = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained = Tokenizer(models.BPE())
    trained.normalizer = space
    plain = [text.replace("\n", " ").encode("ascii", "ignore").decode() for text in CORPUS]
    trained.train_from_iterator(plain, trainers.BpeTrainer(vocab_size=60, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    merges = [tuple(pair) for pair in model["merges"]]
    vocab = {name: index for index, name in enumerate(names)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = space
    strip = decoders.Strip(" ", 1, 0)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    backend.decoder = decoders.Sequence(parts)
    return with_special(backend)


def sentencepiece_unigram() -> PreTrainedTokenizerFast:
    """T5, XLM-R: pieces of a word with ▁ before it; line breaks are characters of the vocabulary."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    backend.train_from_iterator([*CORPUS, *TEXTS], trainer)
    return with_special(backend)


def with_special(backend: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>\n\n", unk_token="<unk>")
    tokenizer.add_tokens([AddedToken("<réflexion>", special=False)])
    return tokenizer


BUILDERS = [byte_level_bpe, sentencepiece_bpe, sentencepiece_unigram, build_tokenizer]


@pytest.fixture(scope="module", params=BUILDERS, ids=lambda build: build.__name__)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return request.param()


def as_bytes(texts: list[str]) -> bytes:
    return b"".join(text.encode("utf-8", "surrogateescape") for text in texts)


@pytest.mark.parametrize("text", TEXTS)
def test_the_texts_of_the_tokens_make_up_the_text(tokenizer: Any, text: str) -> None:
    texts = vocab_text(tokenizer)
    joined = as_bytes([texts[index] for index in tokenizer(text).input_ids]).decode()
    assert joined in (text, " " + text)  # sentencepiece puts a space before a text


@pytest.mark.parametrize("delimiter", [BREAK, "\n", ".", "。", "。\n\n", "\U0001f600", "is ", "the two.\n\nThen"])
@pytest.mark.parametrize("text", TEXTS)
def test_segments_end_where_the_delimiter_ends_in_the_text(tokenizer: Any, text: str, delimiter: str) -> None:
    """Where each token's characters are is told by the tokenizer itself, not by `vocab_text`."""
    encoded = tokenizer(text, return_offsets_mapping=True)
    last_token = {}  # of each character, which may be spread over several
    for t, (start, stop) in enumerate(encoded.offset_mapping):
        last_token.update(dict.fromkeys(range(start, stop), t))
    closing, at = set(), text.find(delimiter)
    while at >= 0:
        closing.add(last_token[at + len(delimiter) - 1])
        at = text.find(delimiter, at + len(delimiter))
    count = len(encoded.input_ids)
    expected = [sum(end < t for end in closing) for t in range(count)]
    got = segment_ids(torch.tensor([encoded.input_ids]), torch.ones(1, count), vocab_text(tokenizer), delimiter)
    assert got[0].tolist() == expected
    table = segment_table(tokenizer, delimiter)
    assert torch.equal(table.ids(torch.tensor([encoded.input_ids]), torch.ones(1, count)), got)


def test_a_character_over_several_tokens_is_one_delimiter() -> None:
    tokenizer = build_tokenizer()  # one byte a token
    ids = tokenizer("一。二", return_tensors="pt").input_ids
    # 3 bytes each; the delimiter ends with the sixth.
    assert segment_ids(ids, torch.ones_like(ids), vocab_text(tokenizer), "。").tolist() == [[0] * 6 + [1] * 3]


@pytest.mark.parametrize("build", BUILDERS[:3])
def test_special_tokens_say_nothing_and_added_ones_what_they_are(build: Any) -> None:
    tokenizer = build()
    texts = vocab_text(tokenizer)
    assert len(texts) == len(tokenizer)
    assert texts[tokenizer.eos_token_id] == ""
    assert texts[tokenizer.convert_tokens_to_ids("<réflexion>")] == "<réflexion>"


def test_tokens_of_the_byte_level_vocabulary() -> None:
    texts = vocab_text(build_tokenizer())
    assert texts[:3] == ["\x00", "\x01", "\x02"]
    assert texts[ord(" ")] == " "
    assert texts[256:] == ["", ""]  # padding and end of turn
    assert [as_bytes([text]) for text in texts[:256]] == [bytes([byte]) for byte in range(256)]
    assert texts[0xE4] == "\udce4"  # the first byte of a Chinese character


def test_tokens_of_the_sentencepiece_vocabulary() -> None:
    texts = vocab_text(sentencepiece_bpe())
    assert texts[1 + 0x0A] == "\n"
    assert texts[1 + 0xE4] == "\udce4"
    assert " t" in texts
    assert not any("▁" in text for text in texts)


class SlowByteLevel:
    """What a slow byte-level tokenizer has: symbols for bytes, and a vocabulary with holes."""

    byte_decoder: dict[str, int] = {symbol: byte for byte, symbol in enumerate(byte_symbols())}  # noqa: RUF012
    added_tokens_decoder: dict[int, AddedToken] = {7: AddedToken("<role>", special=True)}  # noqa: RUF012
    all_special_ids: list[int] = [5]  # noqa: RUF012

    def get_vocab(self) -> dict[str, int]:
        return {"aĊĊ": 0, "Ġb": 1, "一 ": 3, "<eos>": 5, "<role>": 7}


def test_slow_byte_level_tokenizer() -> None:
    # A space is no symbol of a byte: such a piece is plain text. Ids 2, 4 and 6 do not exist, 5 and 7 are special.
    assert vocab_text(SlowByteLevel()) == ["a\n\n", " b", "", "一 ", "", "", "", ""]


@pytest.fixture(scope="module")
def sentencepiece_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import sentencepiece

    folder = tmp_path_factory.mktemp("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in CORPUS for line in text.splitlines() if line),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=310,
        hard_vocab_limit=False,
        byte_fallback=True,
        model_type="bpe",
        minloglevel=2,
    )
    return folder / "tokenizer.model"


def test_slow_sentencepiece_tokenizer(sentencepiece_model: Path) -> None:
    from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

    tokenizer = SentencePieceBackend(
        vocab_file=str(sentencepiece_model), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    texts = vocab_text(tokenizer)
    assert len(texts) == len(tokenizer)
    assert texts[tokenizer.eos_token_id] == texts[tokenizer.unk_token_id] == ""
    assert texts[tokenizer.convert_tokens_to_ids("<0x0A>")] == "\n"
    ids = tokenizer("Then take half.", add_special_tokens=False).input_ids
    assert as_bytes([texts[index] for index in ids]) == b" Then take half."


def test_other_kinds_are_asked_to_decode() -> None:
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "half": 1, "##way": 2, "there": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    assert vocab_text(tokenizer) == ["", " half", "way", " there"]


def test_the_library_names_bytes_as_this_project_does() -> None:
    """One table is derived from the `tokenizers` library, the other written out from GPT-2's rule."""
    assert vocabulary._byte_symbols() == {symbol: byte for byte, symbol in enumerate(byte_symbols())}
