"""verl's own training worker around a model of one parameter a token, without Ray and without a GPU."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from tensordict import NonTensorStack, TensorDict
from verl.utils import tensordict_utils as tu
from verl.workers import engine_workers

from tests.bridge.micro_batches import jagged
from verl_ext.bridge import token_export
from verl_ext.run.token_export.part import Request

VOCAB = 8


class Engine:
    """The model's log-probs are log_softmax(theta), whatever came before; one step of SGD a mini-batch."""

    def __init__(self, micro_batches: int, writes: bool = True) -> None:
        self.theta = torch.linspace(-1, 1, VOCAB, requires_grad=True)
        self.micro_batches, self.writes = micro_batches, writes
        self.losses: list[torch.Tensor] = []
        self.reported: list[str] = []
        self.policies: list[torch.Tensor] = []

    def log_probs(self) -> torch.Tensor:
        return torch.log_softmax(self.theta, -1)

    def train_mode(self, **_: Any) -> Any:
        return nullcontext()

    def get_data_parallel_size(self) -> int:
        return 1

    def get_data_parallel_rank(self) -> int:
        return 0

    def is_mp_src_rank_with_outputs(self) -> bool:
        return self.writes

    def lr_scheduler_step(self) -> float:
        return 1.0

    def train_batch(self, data: TensorDict, loss_function: Any) -> dict[str, Any]:
        self.policies.append(self.log_probs().detach())
        tu.assign_non_tensor(data, dp_size=1, batch_num_tokens=int(data["response_mask"].sum()))
        for micro in tu.chunk_tensordict(data, self.micro_batches):
            sequences = zip(micro["prompts"].unbind(), micro["responses"].unbind(), strict=True)
            # The output at a position is about the token after it.
            rows = [self.log_probs()[torch.cat(pair).roll(-1)] for pair in sequences]
            loss, metrics = loss_function(model_output={"log_probs": jagged(rows)}, data=micro)
            loss.backward()
            self.losses.append(loss.detach())
            self.reported.append(repr({name: getattr(value, "values", value) for name, value in metrics.items()}))
        assert self.theta.grad is not None
        with torch.no_grad():
            self.theta -= self.theta.grad
        self.theta.grad = None
        return {"model_output": {}, "metrics": {"losses": [[*self.losses]], "reported": [[*self.reported]]}}


class Worker(engine_workers.TrainingWorker):
    """verl's worker, its calls as they are, without what needs a process group."""

    def __init__(self, engine: Engine, config: Any, rank: int = 0) -> None:
        self.engine, self._rank = engine, rank
        self.loss_fn = partial(engine_workers.ppo_loss, config=config)
        self.model_config, self.profiler = {}, SimpleNamespace(rank=0, check_enable=lambda: False, step=lambda: None)
        names = ("use_dynamic_bsz", "max_token_len_per_gpu", "micro_batch_size_per_gpu", "use_fused_kernels")
        self.engine_config = SimpleNamespace(forward_only=False, **dict.fromkeys(names))

    @property
    def rank(self) -> int:
        return self._rank

    def _postprocess_output(self, output: dict[str, Any], **_: Any) -> TensorDict:
        return tu.get_tensordict(tensor_dict={}, non_tensor_dict={"metrics": output["metrics"]})


def train(worker: Worker, data: TensorDict, mini_batch_size: int, request: Request | None, epochs: int = 1) -> Any:
    """As `update_actor` calls it, with what the controller says beside the batch."""
    tu.assign_non_tensor(data, mini_batch_size=mini_batch_size, epochs=epochs, global_batch_size=mini_batch_size)
    if request is not None:
        tu.assign_non_tensor(data, **{token_export.REQUEST: request.text()})
    return worker.train_mini_batch(data=data)


def batch(responses: list[list[int]], rewards: list[float], **fields: list[Any]) -> TensorDict:
    """A batch as the controller sends it, sampled by the engine's first policy, in groups of two.

    The last token has the row's reward, which is also its advantage.
    """
    lengths = [len(row) for row in responses]
    columns = {
        "prompts": [torch.tensor([1, 2]) for _ in lengths],
        "responses": [torch.tensor(row) for row in responses],
        "response_mask": [torch.ones(n, dtype=torch.long) for n in lengths],
        "old_log_probs": [torch.log_softmax(torch.linspace(-1, 1, VOCAB), -1)[row] for row in responses],
        "entropy": [torch.linspace(0.5, 2, n) for n in lengths],
        "advantages": [torch.full((n,), reward) for n, reward in zip(lengths, rewards, strict=True)],
        "rm_scores": [torch.tensor([0.0] * (n - 1) + [reward]) for n, reward in zip(lengths, rewards, strict=True)],
        **fields,
    }
    data = TensorDict({name: jagged(rows) for name, rows in columns.items()}, batch_size=len(lengths))
    data["verl_ext_key"] = NonTensorStack(*(f"u{row // 2}_{row % 2}_0" for row in range(len(lengths))))
    data["extra_fields"] = NonTensorStack(*({"reward_extra_info": {"outcome": "wrong"}} for _ in lengths))
    data["data_source"] = NonTensorStack(*("sums" for _ in lengths))
    data["reward_model"] = NonTensorStack(*({"ground_truth": str(row)} for row in range(len(lengths))))
    return data
