"""Gradients with respect to a model's parameters, against one backward pass through the whole batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from verl_ext import batch_file
from verl_ext.context import TokenContext, token_context
from verl_ext.replay.run import Request, replay
from verl_ext.replay.subjects import build
from verl_ext.toy.models import build_config, build_tokenizer

LENGTHS = (7, 4, 5)
PROMPTS = ([5, 6, 7], [8, 9], [10, 11, 12, 13])
LOSSES = ["grpo", "sspo", "gspo"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights and its tokenizer."""
    from transformers import AutoModelForCausalLM

    where = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(build_config("tiny_dense", True, 258)).save_pretrained(where)
    build_tokenizer().save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rows with old log-probs near those of a uniform policy; the last token of the second is masked."""
    rng = np.random.default_rng(0)
    masks = [np.ones(length) for length in LENGTHS]
    masks[1][-1] = 0
    columns = {
        "key": ["a", "b", "c"],
        "prompts": PROMPTS,
        "responses": [[65, 10, 10, *rng.integers(0, 256, length - 3)] for length in LENGTHS],
        "response_mask": masks,
        "advantages": [np.full(length, a) for length, a in zip(LENGTHS, (1.0, -0.5, 0.7), strict=True)],
        "old_log_probs": [-np.log(258) + rng.normal(0, 0.3, length) for length in LENGTHS],
        "entropy": [rng.random(length) for length in LENGTHS],
    }
    path = tmp_path_factory.mktemp("dump") / "dump.parquet"
    batch_file.write(path, columns, step=1)
    return path


def direct(folder: Path, path: Path, loss: str) -> torch.Tensor:
    """The gradient of one loss as one vector: padded rows, one forward pass, one backward pass."""
    from transformers import AutoModelForCausalLM

    from verl_ext.segments import segment_table

    file = batch_file.read(path)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    width = max(map(len, PROMPTS)) + max(LENGTHS)
    ids, attention = torch.zeros(3, width, dtype=torch.long), torch.zeros(3, width, dtype=torch.long)
    for row, (prompt, response) in enumerate(zip(PROMPTS, file.columns["responses"], strict=True)):
        whole = torch.tensor([*prompt, *response])
        ids[row, : len(whole)], attention[row, : len(whole)] = whole, 1
    log_probs = model(ids, attention_mask=attention).logits.log_softmax(-1)
    chosen = [
        log_probs[row, len(PROMPTS[row]) - 1 : len(PROMPTS[row]) - 1 + LENGTHS[row]]
        .gather(1, torch.as_tensor(file.columns["responses"][row])[:, None])
        .flatten()
        for row in range(3)
    ]
    log_prob = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True)
    padded = {name: torch.from_numpy(file.padded(name)) for name in ("advantages", "old_log_probs", "entropy")}
    mask = torch.from_numpy(file.padded("response_mask")).bool()
    segments = segment_table(build_tokenizer(), "\n\n").ids(torch.from_numpy(file.padded("responses")), mask)
    subject = build([loss])[0]
    subject.actor.global_batch_info.update(dp_size=1, batch_num_tokens=15, global_batch_size=3)
    with token_context(TokenContext(old_entropy=padded["entropy"], segment_ids=segments)):
        value, _ = subject.function(
            old_log_prob=padded["old_log_probs"],
            log_prob=log_prob,
            advantages=padded["advantages"],
            response_mask=mask,
            loss_agg_mode=subject.actor.loss_agg_mode,
            config=subject.actor,
        )
    value.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).double()


def test_parameter_gradients_are_those_of_a_direct_computation(folder: Path, dump: Path) -> None:
    done = replay(Request(dump, LOSSES, model=folder))
    gradients = [direct(folder, dump, loss) for loss in LOSSES]
    norms = [float(gradient.norm()) for gradient in gradients]
    assert done.by_parameters
    assert done.norms.tolist() == pytest.approx(norms, rel=1e-4)
    for row, one in enumerate(gradients):
        for column, other in enumerate(gradients):
            want = float(one @ other) / (norms[row] * norms[column])
            assert done.cosine[row, column].item() == pytest.approx(want, abs=1e-4)
    # All three move the parameters, each in a way of its own.
    assert min(norms) > 1e-3
    assert done.cosine[0, 1].item() < 0.999


def test_every_parameter_has_its_gradient(folder: Path, dump: Path) -> None:
    from verl_ext.replay import model as models
    from verl_ext.replay.dump import load
    from verl_ext.replay.inputs import prepare
    from verl_ext.replay.measure import measure

    policy = models.load(folder, 1.0)
    rows = policy.values(load(dump))
    weight = measure(prepare(rows, build(["grpo"]))[0], rows).gradient
    found = torch.cat([part.flatten().cpu() for part in policy.gradients(rows, [weight])[0]]).double()
    torch.testing.assert_close(found, direct(folder, dump, "grpo"), rtol=1e-3, atol=1e-6)


def test_the_temperature_divides_the_logits(folder: Path, dump: Path) -> None:
    cold, warm = (replay(Request(dump, ["gspo"], model=folder, temperature=t)) for t in (0.5, 100.0))
    # At a temperature of 100 the policy is uniform: log 258 nats.
    entropies = warm.dump.tensors["entropy"][warm.dump.mask]
    assert float(entropies.min()) == pytest.approx(np.log(258), abs=1e-3)
    assert cold.dump.tensors["entropy"][cold.dump.mask].mean() < entropies.mean()


def test_a_model_that_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    columns = {
        "key": ["a"],
        "responses": [[1, 300]],
        "response_mask": [[1, 1]],
        "advantages": [[1, 1]],
        "old_log_probs": [[-1, -1]],
    }
    batch_file.write(tmp_path / "a.parquet", columns, 1)
    with pytest.raises(ValueError, match="--model needs the column prompts"):
        replay(Request(tmp_path / "a.parquet", ["gspo"], model=folder))
    batch_file.write(tmp_path / "b.parquet", {**columns, "prompts": [[1]]}, 1)
    with pytest.raises(ValueError, match="the token id 300, the model 258 tokens"):
        replay(Request(tmp_path / "b.parquet", ["gspo"], model=folder))
