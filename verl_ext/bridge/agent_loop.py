"""Between rollout and TransferQueue: entropies become the field ``rollout_entropies`` of every row."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from verl_ext.rollout import source
from verl_ext.rollout.token_log_prob import entropies_of

FIELD = "rollout_entropies"

# Whether this process, an agent loop worker, belongs to a run whose rollouts return entropies.
_wanted = False


def bind(agent_loop: ModuleType) -> None:
    """Called when ``verl.experimental.agent_loop.agent_loop`` has been imported."""
    worker, output = agent_loop.AgentLoopWorker, agent_loop.AgentLoopOutput
    init_worker, init_output, as_dict = worker.__init__, output.__init__, output.as_dict

    @functools.wraps(init_worker)
    def worker_init(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        global _wanted
        init_worker(self, config, *args, **kwargs)
        _wanted = source.resolve(config).tap

    @functools.wraps(init_output)
    def output_init(self: Any, **data: Any) -> None:
        init_output(self, **data)
        if _wanted and data.get("response_logprobs") is not None:
            # pydantic has made plain floats of the elements, on which the entropies ride.
            self.response_logprobs = data["response_logprobs"]

    @functools.wraps(as_dict)
    def output_as_dict(self: Any) -> dict[str, Any]:
        fields = as_dict(self)
        if _wanted:
            import torch

            # On every row: a field that some rows lack is dropped from all of them without a word.
            fields[FIELD] = torch.tensor(entropies_of(self.response_logprobs, self.response_mask), dtype=torch.float32)
        return fields

    worker.__init__, output.__init__, output.as_dict = worker_init, output_init, output_as_dict


def bind_padding(padding_utils: ModuleType) -> None:
    """Called when ``verl.trainer.ppo.padding_utils`` has been imported.

    verl copies a row to make padding and shortens the fields it knows; ours would keep the source's length.
    """
    original = padding_utils.construct_minimal_padding_template

    @functools.wraps(original)
    def construct_minimal_padding_template(*args: Any, **kwargs: Any) -> Any:
        template, tag = original(*args, **kwargs)
        if FIELD in template:
            template[FIELD] = template[FIELD].new_zeros(len(template["responses"]))
        return template, tag

    padding_utils.construct_minimal_padding_template = construct_minimal_padding_template  # type: ignore[attr-defined]
