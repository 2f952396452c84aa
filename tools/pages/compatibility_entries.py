"""What stands in docs/compatibility.md: for each feature of verl and each part of ours what is known, and from where.

A cell is one of four kinds:

* ``tested``: a test, named, that fails if the feature stopped working with this part.
* ``refused``: the configuration is refused before Ray starts, with the sentence of which a part is given here.
* ``unrun``: nobody ran it; what verl's source does there was read, and is named.
* ``apart``: the feature acts in another place than this part, which is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from verl_ext import plugin

KINDS = ("tested", "refused", "unrun", "apart")
LOSSES = tuple(plugin.POLICY_LOSSES)
ESTIMATORS, ROLLOUT = "estimators", "rollout entropies"
COLUMNS = (*LOSSES, ESTIMATORS, ROLLOUT)

A = "actor_rollout_ref.actor"
M = "actor_rollout_ref.model"
R = "actor_rollout_ref.rollout"
CORRECTION = "algorithm.rollout_correction"

HERE = "tests/test_compatibility.py::"
FSDP = "workers/engine/fsdp/transformer_impl.py"
BASE = "trainer/ppo/v1/trainer_base.py"
VERL_LOSSES = "workers/utils/losses.py"


@dataclass(frozen=True)
class Cell:
    """What is known of one feature in some columns.

    Attributes:
        columns: of `COLUMNS`.
        kind: one of `KINDS`.
        evidence: tests, for ``tested``; part of the sentence, for ``refused``; ``file of verl: text of its line`` else.
    """

    columns: tuple[str, ...]
    kind: str
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Feature:
    """A row of the table.

    Attributes:
        title: what it is called there.
        settings: the keys that switch it on, on top of a method's own preset on GPUs; also checked by the tests.
        cells: together they have every column once.
        note: what a person should know.
        keys: how the settings are shown, where that is not `settings`.
        estimators: those that the column of estimators is about.
    """

    title: str
    settings: Mapping[str, Any]
    cells: tuple[Cell, ...]
    note: str = ""
    keys: str = ""
    estimators: tuple[str, ...] = tuple(plugin.ESTIMATORS)

    def settings_in(self, column: str) -> dict[str, Any]:
        """The settings for a column: in that of the estimators, each stays chosen."""
        left_out = ("algorithm.adv_estimator",) if column == ESTIMATORS else ()
        return {key: value for key, value in self.settings.items() if key not in left_out}


def tested(columns: tuple[str, ...], *tests: str) -> Cell:
    return Cell(columns, "tested", tests)


def refused(columns: tuple[str, ...], sentence: str) -> Cell:
    return Cell(columns, "refused", (sentence,))


def unrun(columns: tuple[str, ...], *where: str) -> Cell:
    return Cell(columns, "unrun", where)


def apart(columns: tuple[str, ...], *where: str) -> Cell:
    return Cell(columns, "apart", where)


def but(*names: str) -> tuple[str, ...]:
    """The losses but these."""
    return tuple(name for name in LOSSES if name not in names)


NO_ENTROPIES = tuple(
    name for name, loss in plugin.POLICY_LOSSES.items() if not {"entropy", "old_entropy", "group_ids"} & {*loss.reads}
)
DUAL = tuple(name for name, loss in plugin.POLICY_LOSSES.items() if "clip_ratio_c" in loss.settings)
BY_SEQUENCE = tuple(
    name for name, loss in plugin.POLICY_LOSSES.items() if "seq-mean-token-sum-norm" not in loss.aggregations
)
CONFORMANCE = "tests/conformance/test_losses.py::test_our_losses_pass_a_few_cases"
INHERITED = "tests/bridge/test_controller.py::test_contract_every_trainer_inherits_the_bound_methods"
IN_LOSS = f"{VERL_LOSSES}: pg_loss, pg_metrics = policy_loss_fn("
ADVANTAGE = f"{BASE}: data = compute_advantage_for_multi_trajectories("
TRITON_ENTROPY = "utils/kernel/kernels.py: entropy = torch.empty((num_tokens,), device=hidden.device, dtype=torch."
OLD_PASS = f"{BASE}: def _compute_old_log_prob("

FEATURES: tuple[Feature, ...] = (
    # --- what verl adds to a loss, and what a loss reads
    Feature(
        "KL loss",
        {f"{A}.use_kl_loss": True},
        (
            tested(LOSSES, HERE + "test_verls_kl_loss_is_added_to_every_loss"),
            tested(
                (ESTIMATORS,),
                "tests/bridge/test_driver.py::test_either_setting_that_gives_a_reference_policy_will_do",
                "tests/e2e/test_methods.py::test_erpo_advantages_are_those_of_its_definition_and_differ_within_a_row",
            ),
            apart((ROLLOUT,), f"{BASE}: def _compute_ref_log_prob("),
        ),
        "verl adds it outside the loss, with its own coefficient, estimator and aggregation. TEPO's penalty on the old "
        "policy is another one: with both, both act.",
    ),
    Feature(
        "KL in the reward",
        {"algorithm.use_kl_in_reward": True},
        (
            apart(LOSSES, f"{BASE}: data, kl_metrics = apply_kl_penalty("),
            tested((ESTIMATORS,), HERE + "test_a_kl_in_the_reward_reaches_the_outcome"),
            apart((ROLLOUT,), f"{BASE}: data, kl_metrics = apply_kl_penalty("),
        ),
        "For the estimators `espo`, `erpo` and `entropy_bonus`.",
        estimators=("espo", "erpo", "entropy_bonus"),
    ),
    Feature(
        "KL in the reward, where its sign is read",
        {"algorithm.use_kl_in_reward": True},
        (
            apart(LOSSES, f"{BASE}: data, kl_metrics = apply_kl_penalty("),
            refused((ESTIMATORS,), "takes a reward above 0 for a right answer"),
            apart((ROLLOUT,), f"{BASE}: data, kl_metrics = apply_kl_penalty("),
        ),
        "The estimators `gtpo` and `grpo_s`, and `espo` with `failed=incorrect`, tell right from wrong by the reward's "
        "sign, which a KL moves.",
        estimators=("gtpo", "grpo_s"),
    ),
    Feature(
        "entropy bonus",
        {f"{A}.entropy_coeff": 0.001},
        (
            tested(LOSSES, HERE + "test_verls_entropy_bonus_is_added_to_every_loss"),
            apart((ESTIMATORS,), f"{VERL_LOSSES}: policy_loss -= entropy_coeff * entropy_loss"),
            apart((ROLLOUT,), f"{VERL_LOSSES}: policy_loss -= entropy_coeff * entropy_loss"),
        ),
        "The bonus has a gradient; the current entropies that `tepo`, `steer` and `high_entropy` read have none.",
    ),
    Feature(
        "clip range",
        {f"{A}.clip_ratio_low": 0.1, f"{A}.clip_ratio_high": 0.3},
        (
            refused(("espo",), "espo with clip=adaptive does not clip by it"),
            refused(("sspo",), "sspo with entropy_clip=true does not clip by it"),
            tested(but("espo", "sspo"), HERE + "test_a_loss_that_accepts_the_clip_range_reads_it"),
            apart((ESTIMATORS,), IN_LOSS),
            apart((ROLLOUT,), IN_LOSS),
        ),
        "Read by `espo` with `clip=fixed` and by `sspo` with `entropy_clip=false`, not by `tepo` with `clip=none` or "
        "`ratio=none`. `clip_ratio` alone is refused: verl's defaults for the two others stand above it.",
    ),
    Feature(
        "dual clip",
        {f"{A}.clip_ratio_c": 10.0},
        (
            refused(but(*DUAL), "has no dual clip by it; leave it at 3"),
            tested(DUAL, HERE + "test_a_loss_that_accepts_the_dual_clip_reads_it"),
            apart((ESTIMATORS,), IN_LOSS),
            apart((ROLLOUT,), IN_LOSS),
        ),
        "`dcpo` has one of its own, `r_max`. A value of 1 or less is refused everywhere.",
    ),
    Feature(
        "aggregation",
        {f"{A}.loss_agg_mode": "seq-mean-token-sum-norm"},
        (
            refused(BY_SEQUENCE, "aggregates with seq-mean-token-mean"),
            tested(but(*BY_SEQUENCE), CONFORMANCE, "tests/losses/test_common.py::test_aggregation_is_verls"),
            apart((ESTIMATORS,), IN_LOSS),
            apart((ROLLOUT,), IN_LOSS),
        ),
        "Which modes a loss has is in `verl-ext losses`. Each mode is honoured or refused, never replaced.",
    ),
    Feature(
        "loss_scale_factor",
        {f"{A}.loss_scale_factor": 100},
        (
            refused(LOSSES, "not read with loss_agg_mode="),
            apart((ESTIMATORS,), IN_LOSS),
            apart((ROLLOUT,), IN_LOSS),
        ),
        "Honoured with `loss_agg_mode=seq-mean-token-sum-norm`, where its absence makes the value depend on the padded "
        "width, in verl's losses as in ours.",
    ),
    Feature(
        "hyper-parameters of other losses",
        {f"{A}.policy_loss.ppo_kl_coef": 1.0, f"{A}.policy_loss.clip_cov_ratio": 0.1, f"{A}.tau_pos": 2.0},
        (
            refused(LOSSES, "policy_loss.ppo_kl_coef=1.0: belongs to another loss"),
            apart((ESTIMATORS,), IN_LOSS),
            apart((ROLLOUT,), IN_LOSS),
        ),
        "All keys of verl's `policy_loss` and `tau_pos`, `tau_neg`. A key that exists nowhere is refused by Hydra.",
        keys="policy_loss.{clip_cov_*, kl_cov_ratio, ppo_kl_coef, dro_beta}, tau_*",
    ),
    # --- where the data come from
    Feature(
        "rollout correction",
        {f"{CORRECTION}.rollout_is": "token"},
        (
            tested(LOSSES, CONFORMANCE, HERE + "test_the_weights_of_rollout_correction_reach_every_loss"),
            apart((ESTIMATORS,), f"{BASE}: data, is_metrics = compute_rollout_correction_and_add_to_batch("),
            apart((ROLLOUT,), f"{BASE}: data, is_metrics = compute_rollout_correction_and_add_to_batch("),
        ),
        "Importance weights multiply each token's objective. Rejected tokens leave the mask before segments and groups "
        "are made. Without the rollout's log-probs verl would skip it without a word: refused.",
    ),
    Feature(
        "bypass mode",
        {f"{CORRECTION}.bypass_mode": True},
        (
            tested(("espo", "sspo"), "tests/e2e/test_bypass.py::test_the_method_trains"),
            unrun(but("espo", "sspo"), OLD_PASS),
            tested(
                (ESTIMATORS,),
                "tests/bridge/test_controller.py::test_in_bypass_mode_the_entropies_are_those_of_the_rollout",
            ),
            tested(
                (ROLLOUT,),
                "tests/e2e/test_bypass.py::test_every_row_has_an_entropy_for_each_token_padding_rows_included",
            ),
        ),
    ),
    Feature(
        "rollout correction in bypass mode",
        {f"{CORRECTION}.bypass_mode": True, f"{CORRECTION}.rollout_is": "token"},
        (
            refused(LOSSES, "not computed with bypass_mode=true"),
            apart((ESTIMATORS,), f"{BASE}: # In bypass mode, this is skipped"),
            apart((ROLLOUT,), f"{BASE}: # In bypass mode, this is skipped"),
        ),
        "verl computes it there for its own `loss_mode=bypass_mode` alone; so are `loss_type` and "
        "`policy_loss.rollout_correction` refused.",
    ),
    Feature(
        "critic and GAE",
        {"algorithm.adv_estimator": "gae", "critic.enable": True},
        (
            tested(LOSSES, CONFORMANCE, HERE + "test_advantages_that_differ_by_token_reach_every_loss"),
            refused((ESTIMATORS,), "reads no values, the critic would be trained for nothing"),
            apart((ROLLOUT,), f"{BASE}: def _compute_values("),
        ),
        "`sspo` and `grpo_s` take the mean of a segment's or a sequence's advantages, as their pages say. For the "
        "estimators it is their own estimator with `critic.enable=true`.",
    ),
    Feature(
        "discounts",
        {"algorithm.gamma": 0.99, "algorithm.lam": 0.95},
        (
            apart(LOSSES, ADVANTAGE),
            refused((ESTIMATORS,), "has one outcome a row and does not discount"),
            apart((ROLLOUT,), ADVANTAGE),
        ),
    ),
    Feature(
        "group filtering (DAPO)",
        {"algorithm.filter_groups.enable": True},
        (
            unrun(LOSSES, "trainer/ppo/v1/replay_buffer.py: dapo_enabled = partition_id"),
            unrun((ESTIMATORS,), "trainer/ppo/v1/replay_buffer.py: dapo_enabled = partition_id"),
            unrun((ROLLOUT,), "trainer/ppo/v1/replay_buffer.py: dapo_enabled = partition_id"),
        ),
        "verl drops the groups before the batch is made; what remains is an ordinary batch.",
    ),
    Feature(
        "distillation beside rewards",
        {"distillation.enabled": True},
        (
            tested(LOSSES, HERE + "test_distillation_is_added_to_every_loss"),
            apart(
                (ESTIMATORS,), "trainer/distillation/losses.py: policy_loss += distill_loss * distillation_loss_coef"
            ),
            tested((ROLLOUT,), "tests/rollout/test_v2_runner.py::test_everybody_else_gets_ranks"),
        ),
        "With `use_policy_gradient` the distillation part is verl's `vanilla`, whatever the loss. The teacher's prompt "
        "log-probs keep their ranks.",
    ),
    Feature(
        "distillation alone",
        {"distillation.enabled": True, "distillation.distillation_loss.use_task_rewards": False},
        (
            refused(LOSSES, "trains on the distillation loss alone"),
            apart((ESTIMATORS,), "trainer/distillation/losses.py: if not distillation_loss_config.use_task_rewards:"),
            apart((ROLLOUT,), "trainer/distillation/losses.py: if not distillation_loss_config.use_task_rewards:"),
        ),
        "verl would throw the value of the loss away.",
    ),
    # --- the forward pass
    Feature(
        "dynamic batching",
        {f"{A}.use_dynamic_bsz": True},
        (
            tested(
                ("espo", "sspo", "tepo", "steer"),
                CONFORMANCE,
                "tests/e2e/test_espo.py::test_old_entropies_arrive_aligned_token_by_token",
                "tests/e2e/test_methods.py::test_tepo_ran",
            ),
            tested(but("espo", "sspo", "tepo", "steer"), CONFORMANCE),
            apart((ESTIMATORS,), ADVANTAGE),
            tested(
                (ROLLOUT,), "tests/e2e/test_bypass.py::test_the_planted_entropy_of_ln_2_arrives_at_the_right_tokens"
            ),
        ),
        "A mini-batch cut in any way gives the same value and gradient; `steer` with `scope=micro_batch` is the one "
        "exception, and says so.",
    ),
    Feature(
        "packed sequences (remove padding)",
        {f"{M}.use_remove_padding": True},
        (
            tested(
                ("steer",), "tests/gpu_check/test_checks.py::test_packed_and_padded_agree_in_verls_engine_on_the_cpu"
            ),
            unrun(but("steer"), f"{FSDP}: log_probs = torch.nested.nested_tensor_from_jagged(log_probs, cu_seqlens)"),
            unrun(
                (ESTIMATORS,), f"{FSDP}: entropy = torch.nested.nested_tensor_from_jagged(entropy_rmpad, cu_seqlens)"
            ),
            apart((ROLLOUT,), f"{FSDP}: use_remove_padding = tu.get_non_tensor_data("),
        ),
        "Both forms hand a loss the same nested tensors. The test has `steer`, an entropy bonus and torch's attention "
        "on a CPU; for flash attention there is the check `remove_padding` of `verl-ext doctor gpu`.",
    ),
    Feature(
        "Ulysses sequence parallelism",
        {f"{A}.ulysses_sequence_parallel_size": 2},
        (
            unrun(LOSSES, f"{FSDP}: log_probs = self._gather_and_unpad_packed(log_probs, pad_size)"),
            unrun((ESTIMATORS,), f"{FSDP}: entropy_rmpad = self._gather_and_unpad_packed(entropy_rmpad, pad_size)"),
            apart((ROLLOUT,), f"{FSDP}: if self.use_ulysses_sp:"),
        ),
        "Log-probs and entropies are gathered before the loss. Check `ulysses` of `verl-ext doctor gpu`, on two GPUs.",
    ),
    Feature(
        "Ulysses without flash attention",
        {f"{A}.ulysses_sequence_parallel_size": 2, f"{M}.override_config.attn_implementation": "sdpa"},
        (refused(COLUMNS, "verl exchanges the parts of a sequence within flash attention alone"),),
        "verl says nothing, and log-probs were wrong by up to 9 nats. Refused for the reference policy and the critic "
        "as well, and for verl's own methods.",
    ),
    Feature(
        "fused kernels, torch",
        {f"{M}.use_fused_kernels": True},
        (
            refused(but(*NO_ENTROPIES), "rounds entropies to bf16"),
            tested(NO_ENTROPIES, HERE + "test_verls_fused_kernel_gives_the_log_probs_of_the_plain_pass"),
            refused((ESTIMATORS,), "rounds entropies to bf16"),
            apart((ROLLOUT,), f"{FSDP}: log_probs = output.log_probs.squeeze(0)"),
        ),
        "In float32 nothing is rounded and nothing refused. The estimator `espo` reads no entropies, and is accepted. "
        "verl 0.9.1 fails at the first forward pass with `actor.strategy=fsdp2` and a model whose embeddings are not "
        "tied, whatever the loss. Check `fused_kernels` of `verl-ext doctor gpu`.",
        estimators=("erpo", "entropy_bonus", "gtpo", "grpo_s"),
    ),
    Feature(
        "fused kernels, Triton",
        {f"{M}.use_fused_kernels": True, f"{M}.fused_kernel_options.impl_backend": "triton"},
        (
            unrun(
                LOSSES,
                TRITON_ENTROPY,
            ),
            unrun(
                (ESTIMATORS,),
                TRITON_ENTROPY,
            ),
            apart((ROLLOUT,), f"{FSDP}: log_probs = output.log_probs.squeeze(0)"),
        ),
        "Entropies come back in float32.",
    ),
    Feature(
        "LoRA",
        {f"{M}.lora_rank": 8},
        (
            unrun(LOSSES, f"{FSDP}: def _build_lora_module("),
            unrun((ESTIMATORS,), f'{BASE}: metadata["no_lora_adapter"] = True'),
            unrun((ROLLOUT,), "workers/rollout/vllm_rollout/utils.py: lora_weights: dict"),
        ),
        "The reference policy is the actor without its adapter. The sampler that the tap sits in does not know of "
        "adapters.",
    ),
    Feature(
        "vision-language models",
        {},
        (
            unrun(LOSSES, f"{FSDP}: multi_modal_inputs = extract_multi_modal_inputs("),
            unrun((ESTIMATORS,), f"{FSDP}: multi_modal_inputs = extract_multi_modal_inputs("),
            unrun((ROLLOUT,), f"{FSDP}: multi_modal_inputs = extract_multi_modal_inputs("),
        ),
        "Images are part of the prompt; every field of ours is about response tokens. The size of the vocabulary is "
        "looked up where such models keep it (`test_vocab_size_is_looked_up_where_vision_models_keep_it`).",
        keys="a model with images",
    ),
    Feature(
        "Megatron",
        {"backend": "megatron"},
        (
            tested(LOSSES, "tests/bridge/test_megatron.py::test_micro_batches_add_up_to_the_whole"),
            unrun((ESTIMATORS,), "workers/engine/megatron/transformer_impl.py: def postprocess_micro_batch_func("),
            apart((ROLLOUT,), "workers/engine/megatron/transformer_impl.py: def postprocess_micro_batch_func("),
        ),
        "The test drives verl's engine, Megatron's schedule and the losses on a CPU, with a table for a model; it is "
        "skipped where megatron-core is not there. No model was trained on Megatron. The configurations compose and "
        "pass verl's own checks; see scale.md.",
        keys="backend=megatron",
    ),
    Feature(
        "Megatron, current entropies in chunks",
        {
            "backend": "megatron",
            f"{A}.calculate_entropy": True,
            f"{A}.entropy_from_logits_with_chunking": True,
        },
        (refused(COLUMNS, "on Megatron the backward pass of current entropies fails"),),
        "Where a micro-batch has more tokens than `entropy_from_logits_chunk_size`, 2,048: verl's function writes to "
        "the logits that it has saved for the backward pass. `backend=megatron` leaves it off. Accepted without "
        "`calculate_entropy` and `entropy_coeff`, where entropies have no backward pass.",
        keys="backend=megatron, actor.entropy_from_logits_with_chunking=true, actor.calculate_entropy=true",
    ),
    # --- trainers and rollout
    Feature(
        "trainer sync",
        {"trainer.v1.trainer_mode": "sync"},
        (
            tested(("espo",), "tests/e2e/test_espo.py::test_the_loss_that_ran_is_espo"),
            tested(("sspo",), "tests/e2e/test_methods.py::test_sspo_ran"),
            tested(("tepo",), "tests/e2e/test_methods.py::test_tepo_ran"),
            tested(("steer",), "tests/e2e/test_methods.py::test_steer_ran_and_weights_some_tokens_down"),
            unrun(but("espo", "sspo", "tepo", "steer"), f"{BASE}: def _step_once("),
            tested(
                (ESTIMATORS,),
                "tests/bridge/test_controller.py::test_verls_own_advantage_step_runs_our_estimator_with_its_verdicts",
            ),
            tested((ROLLOUT,), "tests/e2e/test_bypass.py::test_the_workers_name_the_rollout_as_the_source"),
        ),
        "The other losses were run through verl's `ppo_loss` (`test_every_loss_runs_through_verls_ppo_loss`), not "
        "through a whole run; of the estimators `espo` and `erpo` were.",
    ),
    Feature(
        "trainer colocate_async",
        {"trainer.v1.trainer_mode": "colocate_async"},
        (
            tested(("espo",), "tests/e2e/test_async.py::test_espo_trains_asynchronously"),
            unrun(but("espo"), "trainer/ppo/v1/trainer_colocate_async.py: class PPOTrainerColocateAsync("),
            tested((ESTIMATORS,), "tests/e2e/test_async.py::test_espo_trains_asynchronously", INHERITED),
            tested(
                (ROLLOUT,),
                "tests/rollout/test_server.py::"
                "test_pieces_of_an_aborted_response_keep_the_entropies_of_the_weights_that_sampled_them",
            ),
        ),
    ),
    Feature(
        "trainer separate_async",
        {"trainer.v1.trainer_mode": "separate_async", "actor_rollout_ref.hybrid_engine": False},
        (unrun(COLUMNS, "trainer/ppo/v1/trainer_separate_async.py: class PPOTrainerSeparateAsync("),),
        "Its weights travel by NCCL, NIXL or Mooncake, which need accelerators. That it inherits what we bind to is "
        "tested (`test_contract_every_trainer_inherits_the_bound_methods`).",
    ),
    Feature(
        "verl's old trainer (V0)",
        {"trainer.use_v1": False},
        (refused(COLUMNS, "trainer.use_v1=false: verl's old trainer hands neither entropies nor segments"),),
    ),
    Feature(
        "settings that V1 trainers do not read",
        {"algorithm.use_pf_ppo": True, f"{A}.use_prefix_grouper": True, f"{A}.calculate_sum_pi_squared": True},
        (refused(COLUMNS, "algorithm.use_pf_ppo=true: not read by verl's V1 trainers"),),
    ),
    Feature(
        "SGLang",
        {f"{R}.name": "sglang"},
        (
            unrun(LOSSES, "workers/rollout/replica.py: class RolloutReplicaRegistry"),
            unrun((ESTIMATORS,), "workers/rollout/replica.py: class RolloutReplicaRegistry"),
            refused((ROLLOUT,), f"{R}.name=sglang: only vllm returns entropies"),
        ),
        "Losses and estimators then read the entropies of the actor's own pass; bypass mode is refused for those that "
        "need old entropies.",
    ),
    Feature(
        "multi-turn and tools",
        {f"{R}.agent.default_agent_loop": "tool_agent"},
        (
            unrun(LOSSES, "experimental/agent_loop/tool_agent_loop.py: class ToolAgentLoop("),
            unrun((ESTIMATORS,), "experimental/agent_loop/tool_agent_loop.py: class ToolAgentLoop("),
            tested(
                (ROLLOUT,),
                "tests/rollout/test_server.py::test_tokens_of_tools_have_none_and_tokens_of_later_turns_keep_theirs",
            ),
        ),
        "Tokens of tools are masked: they belong to no segment and no group. A column `agent_name` in the data chooses "
        "for each row.",
    ),
    Feature(
        "multi_turn.enable alone",
        {f"{R}.multi_turn.enable": True, "data.train_files": []},
        (refused(COLUMNS, "multi_turn.enable=true: not read by verl's V1 trainers, no tool would run"),),
        "It is no switch there: without `default_agent_loop` or a column `agent_name` in the training data every row "
        "has one turn. Refused for verl's own methods as well; not where the data are on another machine.",
        keys="actor_rollout_ref.rollout.multi_turn.enable=true",
    ),
    Feature(
        "rewards at the top level",
        {"custom_reward_function.path": "reward.py"},
        (refused(COLUMNS, "not read by this verl's trainers; write reward.custom_reward_function.path"),),
        "So are `reward_model` and `sandbox_fusion`; verl's YAML still has all three. Refused for verl's own methods "
        "as well.",
    ),
)
