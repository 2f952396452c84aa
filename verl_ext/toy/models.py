"""The demo's models and tokenizer: byte level, a few hundred thousand parameters, float32.

Sizes respect the CPU kernels of vLLM: its attention takes heads of 32, 64, 80, ... dimensions, and its fused
MoE kernel wants hidden and expert sizes divisible by 32.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, Qwen2Tokenizer

ModelKind = Literal["tiny_dense", "tiny_moe"]

END_OF_TEXT = "<|endoftext|>"
END_OF_TURN = "<|im_end|>"
MAX_POSITIONS = 512
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}" + END_OF_TURN + "{% else %}{{ '\\n' }}{% endif %}{% endfor %}"
)
"""A message is its text and a line break; nothing marks the generation prompt, so prompts stay short."""


def byte_symbols() -> list[str]:
    """The 256 printable characters by which byte-level BPE writes bytes 0 to 255, in byte order.

    Printable Latin-1 bytes stand for themselves; the other 68 map to U+0100 and up (GPT-2's convention, which
    the byte-level pre-tokenizer of the `tokenizers` library hard-codes).
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def build_tokenizer() -> Qwen2Tokenizer:
    """A byte-level tokenizer of 258 tokens: byte b has id b, 256 pads, 257 ends a response.

    Example:
        >>> tokenizer = build_tokenizer()
        >>> tokenizer.encode("7\\n\\n")
        [55, 10, 10]
    """
    from transformers import Qwen2Tokenizer

    vocab = {symbol: index for index, symbol in enumerate([*byte_symbols(), END_OF_TEXT, END_OF_TURN])}
    return Qwen2Tokenizer(
        vocab=vocab,
        merges=[],
        unk_token=END_OF_TEXT,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_POSITIONS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_config(kind: ModelKind, tied: bool, vocab_size: int) -> PretrainedConfig:
    """The architecture of a demo model.

    Args:
        kind: ``"tiny_dense"`` (Qwen2) or ``"tiny_moe"`` (Qwen3-MoE, 8 experts, 2 active).
        tied: whether the output layer shares the input embedding.
        vocab_size: size V of the vocabulary.

    Raises:
        ValueError: for any other kind.
    """
    from transformers import Qwen2Config, Qwen3MoeConfig

    common = {
        "vocab_size": vocab_size,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": MAX_POSITIONS,
        "initializer_range": 0.05,
        "tie_word_embeddings": tied,
        "dtype": "float32",
    }
    if kind == "tiny_dense":
        return Qwen2Config(intermediate_size=256, **common)
    if kind == "tiny_moe":
        return Qwen3MoeConfig(
            intermediate_size=256,
            moe_intermediate_size=64,
            num_experts=8,
            num_experts_per_tok=2,
            norm_topk_prob=True,
            **common,
        )
    raise ValueError(f"model must be one of {', '.join(get_args(ModelKind))}, got {kind!r}")


def build_model(kind: ModelKind, tied: bool, seed: int, vocab_size: int | None = None) -> PreTrainedModel:
    """A model with seeded random weights in float32; the global random state is left as it was."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = build_tokenizer()
    config = build_config(kind, tied, vocab_size or len(tokenizer))
    config.eos_token_id = tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval()


def save(model: PreTrainedModel, out_dir: str | Path) -> Path:
    """Write weights, configuration and tokenizer as transformers and vLLM (``load_format=auto``) read."""
    target = Path(out_dir)
    target.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(target)
    build_tokenizer().save_pretrained(target)
    return target


def build_untrained(kind: ModelKind, tied: bool, out_dir: str | Path, seed: int, vocab_size: int | None = None) -> Path:
    """Save a randomly initialised model with its tokenizer into `out_dir`, for tests that need no skill.

    Args:
        kind: ``"tiny_dense"`` or ``"tiny_moe"``.
        tied: whether input and output embeddings are shared.
        out_dir: the folder to write into.
        seed: seed of the weights.
        vocab_size: V; at least the tokenizer's size, which is the default.

    Returns:
        `out_dir` as a path.

    Raises:
        ValueError: if `vocab_size` is smaller than the tokenizer.
    """
    smallest = len(build_tokenizer())
    if vocab_size is not None and vocab_size < smallest:
        raise ValueError(f"vocab_size {vocab_size} is smaller than the tokenizer's {smallest} tokens")
    return save(build_model(kind, tied, seed, vocab_size), out_dir)
