"""The Triton kernel: run by Triton's interpreter, and compiled for GPUs. No test here runs it on a GPU."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.platform import programs
from tests.rollout import interpreter

TOLERANCE = 1e-5

Cases = dict[str, dict[str, list[float]]]


@pytest.fixture(scope="module")
def cases(triton_folder: Path) -> Cases:
    return interpreter.run(triton_folder, "kernel_probe.py")


def test_equals_float64(cases: Cases) -> None:
    """NaN exactly where the definition gives NaN, which is where a row holds a NaN or nothing but -inf."""
    assert len(cases) == 21
    for name, case in cases.items():
        assert case["found"] == pytest.approx(case["expected"], rel=0, abs=TOLERANCE, nan_ok=True), name


def test_the_cases_are_what_their_names_say(cases: Cases) -> None:
    """Numbers worked out by hand, so that kernel and reference cannot agree on something else.

    With logits 1 and -1: p = 1 / (1 + e^-2) = 0.880797, H = 0.880797 x 0.126928 + 0.119203 x 2.126928 = 0.365334.
    """
    assert cases["uniform"]["found"] == pytest.approx([math.log(259)] * 2, abs=1e-6)
    assert cases["vocabulary of 2"]["found"] == pytest.approx([math.log(2), 0.365334], abs=1e-6)
    assert cases["ten at 1e4, the others at -1e4"]["found"] == pytest.approx([math.log(10)] * 2, abs=1e-6)
    assert all(map(math.isnan, cases["all -inf"]["found"]))
    assert [math.isnan(value) for value in cases["NaN first, NaN last, none"]["found"]] == [True, True, False]
    assert all(map(math.isnan, cases["NaN after -inf"]["found"]))


@pytest.mark.parametrize("name", ["all but one -inf", "vocabulary of 1"])
def test_certainty_is_zero_and_not_minus_zero(cases: Cases, name: str) -> None:
    assert {math.copysign(1, value) * (1 + value) for value in cases[name]["found"]} == {1.0}


def test_log_probs_are_logits_as_well(cases: Cases) -> None:
    """Entropy does not change with a constant added to a row."""
    for name in ("log-probs", "shifted"):
        assert cases[name]["found"] == pytest.approx(cases["float32"]["found"], abs=2e-6), name


COMPILE = """
import json, triton
from triton.backends.compiler import GPUTarget
from verl_ext.rollout import kernels
sizes = {}
for kind in ("fp32", "bf16", "fp16"):
    types = {"output_ptr": "*i64", "logits_ptr": f"*{kind}", "logits_stride": "i32", "token_ids_ptr": "*i64"}
    source = triton.compiler.ASTSource(
        fn=kernels.tagged_entropy_kernel,
        signature={**types, "vocab_size": "i32", "BLOCK_SIZE": "constexpr"},
        constexprs={"BLOCK_SIZE": kernels.BLOCK_SIZE},
    )
    for capability in (80, 90):
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
        sizes[f"{kind} sm_{capability}"] = [len(compiled.asm["cubin"]), compiled.asm["ptx"].count(".local")]
print("RESULT " + json.dumps(sizes))
"""


def test_compiles_for_gpus(triton_folder: Path) -> None:
    """Triton's compiler and NVIDIA's assembler make machine code of it, without a GPU; this was not run."""
    sizes = programs.run("-c", COMPILE, PYTHONPATH=str(triton_folder)).result()
    assert len(sizes) == 6
    for name, (size, local) in sizes.items():
        assert size > 1000, name
        assert local == 0, f"{name}: values live in memory instead of registers"
