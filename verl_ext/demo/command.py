"""The demo's training job, as arguments of verl's own entry point.

Everything that is not about the demo's size stands in configs/ (``+backend=cpu``, ``+algo=...``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from verl_ext.toy.assets import Assets

PROMPT_LENGTH = 48
RESPONSE_LENGTH = 64
PROMPTS_PER_STEP = 16
RESPONSES_PER_PROMPT = 8
MINI_BATCH_PROMPTS = 4
STEPS = 60
VALIDATE_EVERY = 15
LEARNING_RATE = 1e-4
ALPHA = "actor_rollout_ref.actor.policy_loss.alpha"
OWN_ALPHA = 0.1
"""Of ESPO's clip widths. With its default of 0.02 this model of 0.3 million parameters, whose entropies are hundredths
of a nat, clips three times as many tokens and ends lower after 60 steps, with each of three seeds (docs/demo-task.md).
"""
CHECKPOINTS = "checkpoints"
"""Folder of checkpoint and token export inside of a run's."""


def overrides(
    assets: Assets,
    algo: str,
    steps: int = STEPS,
    seed: int = 1,
    control: bool = False,
    out: str = "outputs/demo/run",
    further: Sequence[str] = (),
) -> list[str]:
    """Arguments after ``python -m verl.trainer.main_ppo``.

    Args:
        assets: the demo's model and data.
        algo: a file of configs/algo.
        steps: training steps, each of 16 prompts with 8 responses, in four mini-batches.
        seed: seed of the rollouts and of the data order.
        control: train on rewards that know nothing of correctness.
        out: folder for what the run writes.
        further: the user's own overrides, which come last.
    """
    train = assets.control_parquet if control else assets.train_parquet
    tokens = PROMPT_LENGTH + RESPONSE_LENGTH
    rollout, actor = "actor_rollout_ref.rollout", "actor_rollout_ref.actor"
    return [
        "+backend=cpu",
        f"+algo={algo}",
        f"data.train_files={train}",
        f"data.val_files={assets.val_parquet}",
        f"data.seed={seed}",
        f"data.train_batch_size={PROMPTS_PER_STEP}",
        "data.val_batch_size=512",
        f"data.max_prompt_length={PROMPT_LENGTH}",
        f"data.max_response_length={RESPONSE_LENGTH}",
        f"actor_rollout_ref.model.path={assets.model_dir}",
        f"{rollout}.n={RESPONSES_PER_PROMPT}",
        f"{rollout}.seed={seed}",
        f"{rollout}.max_model_len={tokens}",
        f"{rollout}.max_num_seqs={PROMPTS_PER_STEP * RESPONSES_PER_PROMPT}",
        f"{rollout}.max_num_batched_tokens=8192",
        f"{rollout}.log_prob_use_dynamic_bsz=true",
        f"{rollout}.log_prob_max_token_len_per_gpu=16384",
        f"{rollout}.val_kwargs.temperature=1.0",
        f"{rollout}.val_kwargs.do_sample=true",
        f"{actor}.ppo_mini_batch_size={MINI_BATCH_PROMPTS}",
        f"{actor}.use_dynamic_bsz=true",
        f"{actor}.ppo_max_token_len_per_gpu=8192",
        f"{actor}.optim.lr={LEARNING_RATE}",
        f"{actor}.optim.weight_decay=0.0",
        f"{actor}.data_loader_seed={seed}",
        "reward.custom_reward_function.path=pkg://verl_ext.rewards.math",
        "reward.custom_reward_function.name=compute_score",
        "trainer.logger=[file]",
        "trainer.project_name=verl_ext_demo",
        f"trainer.experiment_name={algo}",
        f"trainer.total_training_steps={steps}",
        "trainer.total_epochs=1000",
        "trainer.val_before_train=true",
        f"trainer.test_freq={VALIDATE_EVERY}",
        # The last step, also of a run whose steps are overridden.
        "trainer.save_freq=${trainer.total_training_steps}",
        "+verl_ext.export.every=${trainer.total_training_steps}",
        f"trainer.default_local_dir={out}/{CHECKPOINTS}",
        f"hydra.run.dir={out}/hydra",
        *([f"+{ALPHA}={OWN_ALPHA}"] if has_own_alpha(algo, further) else []),
        *further,
    ]


def has_own_alpha(algo: str, further: Sequence[str]) -> bool:
    """Whether the demo sets ESPO's alpha: where the user does not."""
    return algo in ("espo", "espo_loss") and not any(ALPHA in override for override in further)
