"""A paper with one table, written where the tests say, and found in the place of recipes/."""

from __future__ import annotations

from pathlib import Path

TABLE = """
title: A table of the tests
source: "no paper"
decodings:
  greedy: {temperature: 0.0, top_p: 1.0, samples: 1, max_tokens: 64}
template: plain
columns:
  - {name: AIME24, benchmark: aime24, metric: avg@1, decoding: greedy}
defaults:
  kind: train
  seeds: [1]
rows:
  - name: sspo_1_5b
    label: SSPO
    choices: {experiment: sspo, algo: sspo, data: math_l3to5, backend: fsdp, cluster: 1x8, model: qwen2_5_math_1_5b}
    overrides:
      +actor_rollout_ref.actor.policy_loss.beta: 0.7
      data.train_batch_size: 512
      trainer.logger: [console]
    published: {AIME24: 1.0}
  - name: megatron
    label: ESPO on Megatron
    choices: {algo: espo, data: math_l3to5, backend: megatron, cluster: 4x8, model: qwen3_30b_a3b_base}
    published: {AIME24: 2.0}
  - name: again
    label: SSPO again
    kind: same_as
    same_as: sample/table1/sspo_1_5b
    published: {AIME24: 1.0}
  - name: base
    label: Base
    kind: evaluate
    choices: {model: qwen2_5_math_1_5b}
    published: {AIME24: 0.5}
  - name: gain
    label: gain
    kind: derived
    derived: {difference: [sspo_1_5b, base]}
    published: {AIME24: 0.5}
"""


def write(folder: Path) -> Path:
    """The folder that stands for recipes/."""
    tables = folder / "sample" / "tables"
    tables.mkdir(parents=True)
    (tables / "table1.yaml").write_text(TABLE)
    return folder
