"""The watch on signal, bound to one trainer: what comes to a step, and what verl takes away before it becomes one.

With `algorithm.filter_groups` the replay buffer drops prompts whose responses all score the same, and fetches others
for as long as it finds no better ones. So these are counted when they go, and a run of which nothing is left is told
so there, where it would wait for ever.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

from verl_ext.bridge import guards_batch
from verl_ext.run.guards import configuration, no_signal
from verl_ext.run.guards.no_signal import Example, Graded, Groups

TAKEN_AWAY = "batches, all taken away by filter_groups,"


class Signal:
    """What the step under way has shown so far.

    Args:
        guards: `verl_ext.bridge.guards.Guards` of the trainer; they hold its settings and what is saved with
            checkpoints, and act.
    """

    def __init__(self, guards: Any) -> None:
        config = guards.trainer.config
        self.guards, self.watch = guards, guards.keeper.no_signal
        self.grouped = configuration.compares_in_groups(config)
        self.multiple = config.actor_rollout_ref.rollout.n > 1
        self.prompts, self.updates = configuration.prompts(config), configuration.updates(config)
        self._groups = Groups()
        self._lost = Groups()

    def batch(self, batch: Any, graded: Sequence[Graded], metrics: dict[str, Any]) -> None:
        """Take a batch in; the last one of a step completes its metrics, and the watch judges.

        Raises:
            GuardError: the run is to stop.
        """
        self._groups, self._lost = self._groups + no_signal.count(graded), Groups()
        if self.guards.trainer.local_trigger_step < self.updates - 1:
            return
        groups, self._groups = self._groups, Groups()
        if self.multiple:
            metrics.update(groups.shares())
        if graded:
            self._judge(groups, batch, graded, "steps")

    def taken_away(self, batch: Any, rest: bool) -> None:
        """Take in what verl is about to drop; `rest` says whether better prompts wait for the step meanwhile.

        Raises:
            GuardError: the run is to stop.
        """
        graded = guards_batch.graded(self.guards.tq, batch)
        found = no_signal.count(graded)
        self._groups += found
        self._lost = Groups() if rest or found.teach(self.grouped) else self._lost + found
        if self._lost.number >= self.prompts:
            lost, self._lost = self._lost, Groups()
            self._judge(lost, batch, graded, TAKEN_AWAY)

    def _judge(self, groups: Groups, batch: Any, graded: Sequence[Graded], period: str) -> None:
        guards = self.guards
        if guards.settings.no_signal_action == "off" or not self.watch.observe(groups.teach(self.grouped)):
            return
        example = self._example(batch, no_signal.example_of(graded))
        step = guards.trainer.global_steps
        guards.act(batch, no_signal.incident(groups, example, guards.settings, step, period, guards.reward))

    def _example(self, batch: Any, row: Graded) -> Example:
        one = type(batch)(keys=[row.key], tags=[{}], partition_id=batch.partition_id)
        columns = guards_batch.columns(self.guards.tq, one, self.guards.trainer.tokenizer, [], 1)
        (response,), (truth,) = (columns.get(name, [None]) for name in ("response_text", "ground_truth"))
        return Example(row.key, response, truth, row.reward, json.loads(columns["reward_extra_info"][0]))


def watch(buffer: Any, taken_away: Callable[[Any, bool], None]) -> None:
    """Have a replay buffer show the rows of the training prompts that it drops, before they are gone.

    A custom sampler that drops them in another way is left alone.

    Args:
        buffer: the trainer's.
        taken_away: gets the rows, and whether the buffer has found prompts that its filter keeps.
    """
    if not hasattr(buffer, "_clear_groups"):
        return
    clear = buffer._clear_groups

    @functools.wraps(clear)
    def _clear_groups(partition_id: str, uids: set[str]) -> None:
        tags = {key: tag for key, tag in buffer.partitions[partition_id].items() if key.split("_")[0] in uids}
        if tags and partition_id != "val":
            from transfer_queue import KVBatchMeta

            filtered = getattr(buffer, "filter_groups_metric", None) is not None
            rest = not filtered or bool(buffer.finished_keys[partition_id] - uids)
            taken_away(KVBatchMeta(keys=list(tags), tags=list(tags.values()), partition_id=partition_id), rest)
        clear(partition_id, uids)

    buffer._clear_groups = _clear_groups
