"""Configurations of published models, the keys that decide sizes, and what is published of them.

`CACHES` are what docs/sizing.md sets beside the formulas: bytes of a token in bfloat16, or what is published of a long
sequence divided by its length, and where.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FP8 = {
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
    "auto_map": {
        "AutoConfig": "configuration_deepseek.DeepseekV3Config",
        "AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM",
    },
    "architectures": ["DeepseekV3ForCausalLM"],
}
_LATENT = {
    **_FP8, "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": 61,
    "n_shared_experts": 1, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "qk_nope_head_dim": 128, "num_experts_per_tok": 8, "num_nextn_predict_layers": 1, "torch_dtype": "bfloat16",
}  # fmt: skip
_VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}

MODELS: dict[str, tuple[dict[str, Any], int]] = {
    # Published as 671B; the 14B of multi-token prediction are in no model that transformers builds.
    "DeepSeek-V3": (
        {
            **_LATENT, "model_type": "deepseek_v3", "vocab_size": 129280, "num_attention_heads": 128,
            "num_key_value_heads": 128, "n_routed_experts": 256, "first_k_dense_replace": 3,
        },
        671_026_404_352,
    ),
    "Kimi-K2": (
        {
            **_LATENT, "model_type": "kimi_k2", "vocab_size": 163840, "num_attention_heads": 64,
            "num_key_value_heads": 64, "n_routed_experts": 384, "first_k_dense_replace": 1, "n_group": 1,
            "topk_group": 1,
        },
        1_026_408_209_408,
    ),
    "gpt-oss-20b": (
        {
            "model_type": "gpt_oss", "vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880,
            "num_hidden_layers": 24, "num_local_experts": 32, "num_experts_per_tok": 4, "head_dim": 64,
            "num_attention_heads": 64, "num_key_value_heads": 8, "sliding_window": 128,
            "layer_types": ["sliding_attention", "full_attention"] * 12,
            "quantization_config": {"quant_method": "mxfp4"},
        },
        20_914_757_184,
    ),
    "Qwen3-Next-80B-A3B": (
        {
            "model_type": "qwen3_next", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 16,
            "num_key_value_heads": 2, "head_dim": 256, "num_experts": 512, "num_experts_per_tok": 10,
            "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "vocab_size": 151936,
            "intermediate_size": 5120, "full_attention_interval": 4, "linear_num_key_heads": 16,
            "linear_num_value_heads": 32, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
            "linear_conv_kernel_dim": 4,
        },
        79_674_391_296,
    ),
    "Gemma-3-4b": (
        {
            "model_type": "gemma3", "mm_tokens_per_image": 256,
            "text_config": {
                "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
                "sliding_window": 1024,
            },
            "vision_config": {
                "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
                "num_attention_heads": 16, "num_hidden_layers": 27, "image_size": 896, "patch_size": 14,
                "vision_use_head": False,
            },
        },
        4_300_079_472,
    ),
    "Qwen2.5-VL-7B": (
        {
            "model_type": "qwen2_5_vl", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "sliding_window": 32768,
            "use_sliding_window": False, "tie_word_embeddings": False,
            "vision_config": {
                "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
                "out_hidden_size": 3584, "patch_size": 14,
            },
        },
        8_292_166_656,
    ),
    "Qwen3-VL-8B": (
        {
            "model_type": "qwen3_vl", "tie_word_embeddings": False,
            "text_config": {
                "model_type": "qwen3_vl_text", "hidden_size": 4096, "intermediate_size": 12288,
                "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
                "vocab_size": 151936,
            },
            "vision_config": {
                "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "out_hidden_size": 4096,
                "deepstack_visual_indexes": [8, 16, 24], "num_position_embeddings": 2304, "patch_size": 16,
            },
        },
        8_767_123_696,
    ),
    "Mistral-Small-3.1-24B": (
        {
            "model_type": "mistral3", "spatial_merge_size": 2,
            "text_config": {
                "model_type": "mistral", "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 32,
                "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 32768, "vocab_size": 131072,
                "sliding_window": None,
            },
            "vision_config": {
                **_VISION, "model_type": "pixtral", "patch_size": 14, "image_size": 1540, "head_dim": 64,
            },
        },
        24_011_361_280,
    ),
    "Llama-4-Scout": (
        {
            "model_type": "llama4",
            "text_config": {
                "model_type": "llama4_text", "hidden_size": 5120, "intermediate_size": 8192,
                "intermediate_size_mlp": 16384, "num_hidden_layers": 48, "num_attention_heads": 40,
                "num_key_value_heads": 8, "head_dim": 128, "num_local_experts": 16, "num_experts_per_tok": 1,
                "interleave_moe_layer_step": 1, "vocab_size": 202048, "attention_chunk_size": 8192,
            },
            "vision_config": {
                "model_type": "llama4_vision_model", "hidden_size": 1408, "intermediate_size": 5632,
                "num_hidden_layers": 34, "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
                "vision_output_dim": 4096, "projector_input_dim": 4096, "projector_output_dim": 4096,
            },
        },
        108_641_793_536,
    ),
    # Its text configuration states one size alone: the rest are Llama's defaults, as transformers wrote such files.
    "llava-1.5-7b": (
        {
            "model_type": "llava", "text_config": {"model_type": "llama", "vocab_size": 32064},
            "vision_config": {
                **_VISION, "model_type": "clip_vision_model", "image_size": 336, "patch_size": 14,
                "projection_dim": 768,
            },
        },
        7_063_427_072,
    ),
    "gpt2": (
        {"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12, "n_ctx": 1024, "vocab_size": 50257},
        124_439_808,
    ),
    "gpt-neox-20b": (
        {
            "model_type": "gpt_neox", "hidden_size": 6144, "num_hidden_layers": 44, "num_attention_heads": 64,
            "vocab_size": 50432, "intermediate_size": 24576,
        },
        20_554_567_680,
    ),
    "bloom-560m": (
        {"model_type": "bloom", "n_embed": 1024, "n_layer": 24, "num_attention_heads": 16, "vocab_size": 250880},
        559_214_592,
    ),
    "falcon-40b": (
        {
            "model_type": "falcon", "hidden_size": 8192, "num_hidden_layers": 60, "num_attention_heads": 128,
            "vocab_size": 65024, "num_kv_heads": 8, "new_decoder_architecture": True, "bias": False, "alibi": False,
            "auto_map": {"AutoConfig": "configuration_falcon.FalconConfig"},
        },
        41_303_293_952,
    ),
    "mpt-7b": (
        {
            "model_type": "mpt", "d_model": 4096, "n_heads": 32, "n_layers": 32, "vocab_size": 50432,
            "attn_config": {"attn_impl": "torch"}, "auto_map": {"AutoConfig": "configuration_mpt.MPTConfig"},
        },
        6_649_286_656,
    ),
    "opt-125m": (
        {
            "model_type": "opt", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
            "vocab_size": 50272, "ffn_dim": 3072, "word_embed_proj_dim": 768, "max_position_embeddings": 2048,
        },
        125_239_296,
    ),
    "phi-2": (
        {
            "model_type": "phi", "hidden_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 32,
            "vocab_size": 51200, "intermediate_size": 10240, "num_key_value_heads": None,
        },
        2_779_683_840,
    ),
    "Mixtral-8x7B": (
        {
            "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "num_local_experts": 8,
            "num_experts_per_tok": 2, "sliding_window": None,
        },
        46_702_792_704,
    ),
    "Llama-3-70B": (
        {
            "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
            "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256, "head_dim": None,
        },
        70_553_706_496,
    ),
}  # fmt: skip

_405B = {
    **MODELS["Llama-3-70B"][0], "hidden_size": 16_384, "intermediate_size": 53_248, "num_hidden_layers": 126,
    "num_attention_heads": 128,
}  # fmt: skip
MODELS["Llama-3.1-405B"] = (_405B, 405_853_388_800)
_72B = {
    "model_type": "qwen2", "hidden_size": 8192, "intermediate_size": 29_568, "num_hidden_layers": 80,
    "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 152_064, "tie_word_embeddings": False,
}  # fmt: skip
MODELS["Qwen2.5-72B"] = (_72B, 72_706_203_648)
_13B = {
    **MODELS["opt-125m"][0], "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40,
    "ffn_dim": 20_480, "word_embed_proj_dim": 5120,
}  # fmt: skip
MODELS["OPT-13B"] = (_13B, 12_853_473_280)

CACHES: dict[str, tuple[int, str]] = {
    "DeepSeek-V3": (70_272, "70.272 KB, arXiv 2505.09343, table 1"),
    "Qwen2.5-72B": (327_680, "327.680 KB, the same"),
    "Llama-3.1-405B": (516_096, "516.096 KB, the same"),
    "OPT-13B": (800 * 2**10, "800 KB, arXiv 2309.06180, section 3"),
    "Mixtral-8x7B": (32 * 2**30 // (256 * 2**10), "32 GB for 256K tokens, arXiv 2403.19887, table 1"),
}


def folder(name: str, under: Path) -> str:
    """A folder with the model's config.json."""
    return write(MODELS[name][0], under)


def write(values: Any, under: Path) -> str:
    (under / "config.json").write_text(values if isinstance(values, str) else json.dumps(values))
    return str(under)
