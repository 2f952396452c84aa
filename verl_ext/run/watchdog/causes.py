"""For every phase of verl's trainers: what is done in it, what usually makes it hang, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """What is known about a phase that does not end."""

    what: str
    usually: str
    todo: str


_FORWARD = "a rank that waits for another in a collective (different batches, a rank out of memory), or a slow node"
_COMPARE = "compare the stacks of the WorkerDict processes: the one that is elsewhere than the others is the cause"
_ROLLOUTS = Cause(
    "responses are generated and graded",
    "reward code or a tool that never returns, groups that all fail and are replaced for ever, or a filter of groups "
    "that keeps none",
    "look into the stacks of the reward and agent loop workers; search the log for 'Error in _run_prompt'",
)
_SYNC = Cause(
    "weights go from the actor to the rollout engine",
    "an engine process that died or failed while its partner waits for an answer",
    "search the log for the first error of vLLM; a process that vanished without a word often ran out of memory",
)
_SWITCH = Cause(
    "processors change hands between training and generation",
    "requests that do not end, or an engine that does not go to sleep",
    "look into the stacks of the servers",
)

CAUSES = {
    "start-up": Cause(
        "processes are started and models loaded",
        "resources that the cluster does not have, a slow or unreachable file system, or a download",
        "run verl-ext doctor cluster with the same arguments; for large models raise "
        "verl_ext.watchdog.start_up_limit_s",
    ),
    "load_checkpoint": Cause(
        "a checkpoint is read", "a slow or unreachable file system", "look at the disk that holds the checkpoints"
    ),
    "training": Cause(
        "between two steps: metrics are computed and logged",
        "a logger that waits for its server",
        "try with trainer.logger=[console]",
    ),
    "step": Cause(
        "between two phases of a step: batches are put together and balanced",
        "TransferQueue, one of whose processes does not answer",
        "look into the stacks of SimpleStorageUnit and TransferQueueController",
    ),
    "data": Cause(
        "prompts are read and handed to the agent loop workers",
        "a data loader process that died, or agent loop workers that do not answer",
        "try with data.dataloader_num_workers=0",
    ),
    "gen": _ROLLOUTS,
    "testing": _ROLLOUTS,
    "switch_wait": _ROLLOUTS,
    "switch_to_trainer": _SWITCH,
    "switch_to_rollout": _SWITCH,
    "reward": Cause(
        "a reward model grades the responses", "the reward model's engine does not answer", "look into its stacks"
    ),
    "old_log_prob": Cause("the actor's log-probs are computed", _FORWARD, _COMPARE),
    "ref": Cause("the reference policy's log-probs are computed", _FORWARD, _COMPARE),
    "values": Cause("the critic's values are computed", _FORWARD, _COMPARE),
    "adv": Cause(
        "advantages are computed", "an estimator that is slow on batches of this size", "look into the stacks"
    ),
    "update_critic": Cause("the critic is trained", _FORWARD, _COMPARE),
    "update_actor": Cause("the actor is trained", _FORWARD, _COMPARE),
    "update_weights": _SYNC,
    "sleep_replicas": Cause(
        "the rollout engine gives its memory back", "requests that do not end", "look into the stacks of the servers"
    ),
    "save_checkpoint": Cause(
        "a checkpoint is written",
        "a full, slow or unreachable disk",
        "look at the disk that trainer.default_local_dir is on",
    ),
    "dump_rollout_generations": Cause(
        "responses are written", "a slow or unreachable disk", "look at the disk that trainer.rollout_data_dir is on"
    ),
    "shut-down": Cause(
        "training has ended, normally or not; loggers and TransferQueue are closed",
        "a logger that waits for its server",
        "the checkpoints are complete; try with trainer.logger=[console]",
    ),
}
UNKNOWN = Cause("", "nothing is known about this phase", "look into the stacks")


def of(phase: str) -> Cause:
    """What is known about a phase."""
    return CAUSES.get(phase, UNKNOWN)
