"""Loaded by verl in every process of an end-to-end run (VERL_USE_EXTERNAL_MODULES): plants values into batches.

VERL_EXT_PLANT is `field:value:step,step`, applied after the actor's pass and before the advantages.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import wrapt

FIELD, VALUE, STEPS = os.environ["VERL_EXT_PLANT"].split(":")
PLANTED = {int(step) for step in STEPS.split(",")}
# Which of the real rows gets the value, in its first token; without it all of them do, in every token.
ROW = os.environ.get("VERL_EXT_PLANT_ROW")


def plant(trainer_base) -> None:
    cls, tq = trainer_base.PPOTrainer, trainer_base.tq
    original = cls._compute_old_log_prob

    def _compute_old_log_prob(self, batch, metrics):
        import torch
        from tensordict import TensorDict

        batch = original(self, batch, metrics)
        if self.global_steps not in PLANTED:
            return batch
        values = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=[FIELD])[FIELD]
        rows = [row.clone() for row in values.unbind()]
        real = [row for row, tag in enumerate(batch.tags) if not tag.get("is_padding", False)]
        if ROW is None:
            rows = [torch.full_like(row, float(VALUE)) for row in rows]
        else:
            rows[real[int(ROW)]][0] = float(VALUE)
        note = Path(os.environ["VERL_EXT_RECORD"]) / f"planted-{self.global_steps}"
        note.write_text(f"{time.time()} {batch.keys[real[int(ROW or 0)]]}")
        fields = TensorDict({FIELD: torch.nested.as_nested_tensor(rows, layout=torch.jagged)}, batch_size=len(rows))
        return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)

    cls._compute_old_log_prob = _compute_old_log_prob


wrapt.register_post_import_hook(plant, "verl.trainer.ppo.v1.trainer_base")
