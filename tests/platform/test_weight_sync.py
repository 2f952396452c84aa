"""The weight sync: its comparison of tensors here, and the whole of it through a real vLLM on the CPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.platform import programs
from verl_ext.platform.fingerprint import digest, pieces, uncovered
from verl_ext.platform.weight_sync import differences

PROBE = programs.HERE / "sync_probe.py"
TOLERANCE = 1e-4  # float32 in another order of summation: measured 1e-6 to 1e-5

VARIANTS = [(kind, tied) for kind in ("tiny_dense", "tiny_moe") for tied in ("tied", "untied")]

# What the engine must say when a tensor is left out. vLLM stacks q, k and v and the experts of a layer.
LEFT_OUT = {
    "model.norm.weight": "model.norm.weight: no tensor of the actor fills this parameter",
    "model.layers.0.self_attn.q_proj.weight": "model.layers.0.self_attn.qkv_proj.weight: no tensor of",
    "model.layers.1.mlp.experts.3.up_proj.weight": "w13_weight: no tensor of the actor fills this parameter",
}


@pytest.mark.ray
@pytest.mark.parametrize(("kind", "tied"), VARIANTS)
def test_vllm_computes_with_what_the_actor_sent(kind: str, tied: str) -> None:
    result = programs.run(PROBE, kind, tied, limit_s=240).result()
    assert result["before"] <= TOLERANCE
    assert len(result["after"]) == 2
    assert max(result["after"]) <= TOLERANCE
    assert result["faults"] == []
    assert len(result["left_out"]) == (3 if kind == "tiny_moe" else 2)
    for name, faults in result["left_out"].items():
        assert any(LEFT_OUT[name] in fault for fault in faults), (name, faults)
    for name, faults in result["forged"].items():
        assert len(faults) == 1, faults
        assert faults[0].startswith(f"{name} ")
        assert faults[0].endswith("the engine holds other values")
    assert result["in_the_end"] == []  # the faults above were the probe's, not a lasting state of the engine


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "taken_out"),
    [("tiny_dense", "keep_loadable"), ("tiny_moe", "packed_copies,repack_after_update")],
)
def test_the_probe_fails_without_the_patch_of_vllm(kind: str, taken_out: str) -> None:
    """The negative control: linear layers then refuse to load, experts silently stay the first ones."""
    finished = programs.run(PROBE, kind, "tied", limit_s=240, PROBE_WITHOUT=taken_out)
    if finished.returncode != 0:
        assert "weight_loader" in finished.output or "has no parameter" in finished.output, finished.output[-3000:]
        return
    result = finished.result()
    assert max(result["after"]) > 1
    assert any("the experts compute with a packed copy of other weights" in fault for fault in result["faults"])


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.integers(0, 255), max_size=40), st.integers(0, 39), st.integers(1, 255))
def test_a_digest_tells_any_changed_byte(data: list[int], position: int, change: int) -> None:
    tensor = torch.tensor(data, dtype=torch.uint8)
    assert digest(tensor) == digest(tensor.clone())
    if data:
        changed = tensor.clone()
        changed[position % len(data)] ^= change
        assert digest(changed) != digest(tensor)


def test_a_digest_tells_dtype_shape_and_sign_of_zero_but_not_layout() -> None:
    square = torch.arange(4.0).reshape(2, 2)
    others = [square.double(), square.flatten(), square.t().contiguous(), -square, square + 1e-7]
    assert len({digest(square), *map(digest, others)}) == 6
    assert digest(square.t()) == digest(square.t().contiguous())
    assert digest(torch.tensor([0.0])) != digest(torch.tensor([-0.0]))
    assert digest(torch.tensor(float("nan"))) == digest(torch.tensor(float("nan")))
    assert digest(square.bfloat16()) != digest(square)


# A model as the actor names its tensors. Grouped-query attention: 4 rows of q, 2 of k, 2 of v.
SHAPES = {
    "model.embed_tokens.weight": (10, 4),
    "model.layers.0.self_attn.q_proj.weight": (4, 4),
    "model.layers.0.self_attn.k_proj.weight": (2, 4),
    "model.layers.0.self_attn.v_proj.weight": (2, 4),
    "model.layers.0.self_attn.q_proj.bias": (4,),
    "model.layers.0.self_attn.k_proj.bias": (2,),
    "model.layers.0.self_attn.v_proj.bias": (2,),
    "model.layers.0.mlp.gate_proj.weight": (3, 4),
    "model.layers.0.mlp.up_proj.weight": (3, 4),
    "model.layers.0.mlp.down_proj.weight": (4, 3),
    "model.layers.1.mlp.experts.0.gate_proj.weight": (2, 4),
    "model.layers.1.mlp.experts.0.up_proj.weight": (2, 4),
    "model.layers.1.mlp.experts.0.down_proj.weight": (4, 2),
    "model.layers.1.mlp.experts.1.gate_proj.weight": (2, 4),
    "model.layers.1.mlp.experts.1.up_proj.weight": (2, 4),
    "model.layers.1.mlp.experts.1.down_proj.weight": (4, 2),
    "model.norm.weight": (4,),
}


def actor() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def engine(sent: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights, stacked as vLLM stacks them, with the vocabulary padded from 10 to 16 rows."""
    attention, dense, experts = (
        "model.layers.0.self_attn.",
        "model.layers.0.mlp.",
        "model.layers.1.mlp.experts.",
    )
    qkv = {kind: torch.cat([sent[f"{attention}{part}_proj.{kind}"] for part in "qkv"]) for kind in ("weight", "bias")}
    gate_up = [
        torch.cat([sent[f"{experts}{e}.gate_proj.weight"], sent[f"{experts}{e}.up_proj.weight"]]) for e in (0, 1)
    ]
    return {
        "model.embed_tokens.weight": torch.cat([sent["model.embed_tokens.weight"], torch.zeros(6, 4)]),
        f"{attention}qkv_proj.weight": qkv["weight"],
        f"{attention}qkv_proj.bias": qkv["bias"],
        f"{dense}gate_up_proj.weight": torch.cat([sent[f"{dense}gate_proj.weight"], sent[f"{dense}up_proj.weight"]]),
        f"{dense}down_proj.weight": sent[f"{dense}down_proj.weight"].clone(),
        f"{experts}routed_experts.w13_weight": torch.stack(gate_up),
        f"{experts}routed_experts.w2_weight": torch.stack([sent[f"{experts}{e}.down_proj.weight"] for e in (0, 1)]),
        "model.norm.weight": sent["model.norm.weight"].clone(),
    }


def test_pieces_cut_the_stacked_parameters_back_into_what_was_sent() -> None:
    sent = actor()
    found = pieces(engine(sent), SHAPES)
    assert set(found) == set(sent)
    for name, piece in found.items():
        assert piece is not None, name
        torch.testing.assert_close(piece, sent[name], rtol=0, atol=0)
    assert uncovered(engine(sent), SHAPES) == []


@pytest.mark.parametrize("missing", SHAPES)
def test_whatever_is_left_out_leaves_a_parameter_of_the_engine_uncovered(missing: str) -> None:
    shapes = {name: shape for name, shape in SHAPES.items() if name != missing}
    faults = uncovered(engine(actor()), shapes)
    home = ".".join(missing.replace("experts.0", "experts").replace("experts.1", "experts").split(".")[:-2])
    assert faults
    assert any(fault.startswith(home) for fault in faults)


def test_a_parameter_that_the_engine_lacks_has_no_piece() -> None:
    parameters = engine(actor())
    del parameters["model.layers.1.mlp.experts.routed_experts.w2_weight"], parameters["model.norm.weight"]
    absent = sorted(name for name, piece in pieces(parameters, SHAPES).items() if piece is None)
    assert absent == [
        "model.layers.1.mlp.experts.0.down_proj.weight",
        "model.layers.1.mlp.experts.1.down_proj.weight",
        "model.norm.weight",
    ]


def test_tied_embeddings_cover_both_names_of_the_one_tensor() -> None:
    sent = {"model.embed_tokens.weight": torch.randn(10, 4)}
    parameter = sent["model.embed_tokens.weight"].clone()
    parameters = {"model.embed_tokens.weight": parameter, "lm_head.weight": parameter}
    assert uncovered(parameters, {"model.embed_tokens.weight": (10, 4)}) == []
    apart = {**parameters, "lm_head.weight": parameter.clone()}
    assert uncovered(apart, {"model.embed_tokens.weight": (10, 4)}) == ["lm_head.weight"]


def test_differences_name_every_kind_of_fault_once() -> None:
    sent = actor()
    recorded = {name: (tuple(tensor.shape), digest(tensor)) for name, tensor in sent.items()}
    parameters, stale = engine(sent), []

    def answer() -> dict:
        found = pieces(parameters, SHAPES)
        return {
            "digests": {name: None if piece is None else digest(piece) for name, piece in found.items()},
            "uncovered": uncovered(parameters, SHAPES),
            "stale": stale,
        }

    assert differences(recorded, answer()) == []
    # Row 5 of qkv is k's second one (4 rows of q come before); expert 1's up half begins at row 2.
    parameters["model.layers.0.self_attn.qkv_proj.weight"][5, 0] += 1e-6
    parameters["model.layers.1.mlp.experts.routed_experts.w13_weight"][1, 2, 0] += 1e-6
    del parameters["model.norm.weight"]
    parameters["model.extra.weight"] = torch.ones(2)
    stale.append("model.layers.1.mlp.experts")
    assert sorted(differences(recorded, answer())) == [
        "model.extra.weight: no tensor of the actor fills this parameter",
        "model.layers.0.self_attn.k_proj.weight (2, 4): the engine holds other values",
        "model.layers.1.mlp.experts.1.up_proj.weight (2, 4): the engine holds other values",
        "model.layers.1.mlp.experts: the experts compute with a packed copy of other weights",
        "model.norm.weight: the engine has no such parameter",
    ]
