"""docs/metrics.md, rendered from `verl_ext.run_report.catalogue`."""

from __future__ import annotations

import itertools

from verl_ext.run_report.catalogue import PANELS, everything

INTRODUCTION = """\
# Metrics

What verl_ext adds to verl's metrics. This page is made from the table in `verl_ext/run_report/catalogue.py`
(`make docs`); a test runs every loss and estimator with its options
and fails if one emits a name that is not here. Names do not change from one release to the next.

- *Unit*: a share lies between 0 and 1; entropies, log-probs and KL are in nats; a ratio is one of probabilities.
- *Panel*: where [`verl-ext report`](run-report.md) draws it; a blank means that it is logged and not drawn.
- A loss computes its numbers over the valid tokens of a micro-batch. verl takes the plain mean of them over
  micro-batches, ranks and the mini-batches of a step, not weighted by tokens.
- A value that is not finite stays out of the report; verl's file logger writes it as `null`.
- verl's file logger appends, with `"attempt": n` in each line; [run-report.md](run-report.md) says which steps count.
- In validation, verl also gives `std@n`, `best@k/mean`, `worst@k/mean` ... of every number beside `mean@n`.
- Estimators (ESPO, ERPO, GTPO, GRPO-S, the entropy bonus) emit no metrics of their own.
"""

CLOSING = """\
## In wandb

wandb makes a section of the part of a name before the first slash, so that verl's names and these give the sections
`actor`, `critic`, `training`, `reward`, `guards`, `timing_s`, `val-core` ... by themselves. With *Group by: last
prefix* in a workspace's settings, the section is everything before the last slash: `actor/espo/group0`,
`actor/espo/group1`, `reward/outcome`, `guards/entropy`, with a chart for each of their numbers. That is the better
view for a method with groups.

Names alone decide on sections: the client can set a metric's axis, its summary and whether it gets a chart. The axis
needs nothing, as verl logs with its global step as wandb's step, the validation before training included.
When verl opens wandb the plugin sets the rest: the table of runs has the largest value of validation accuracies,
differences between rollout and actor, and guards' counts beside the last one; and `actor/verl_ext/execution`, a
checksum, has no chart. `verl_ext.run_report.wandb_panels.define(run)` does the same for a run of your own.

Without network:

```bash
WANDB_MODE=offline verl-ext train experiment=... trainer.logger=[console,wandb]
verl-ext report wandb/offline-run-20260131_120000-abcd1234   # reads the folder as it is
wandb sync wandb/offline-run-20260131_120000-abcd1234        # later, from a machine that has network
```

## Keys

A key belongs into the environment, never into the configuration. verl prints its whole configuration twice
(`ray init kwargs: ...` in `run_ppo`, and all of it in `TaskRunnerV1.run`), Hydra writes it to `.hydra/`, and a logger
such as wandb uploads it. verl does not copy `WANDB_API_KEY` or another key from the environment into any of these.

So `+ray_kwargs.ray_init.runtime_env.env_vars.WANDB_API_KEY=...` would be printed, written and uploaded. A configuration
with a key in it is refused before Ray starts, with its other faults: what stands under the name of a key, the value of
a key in the environment wherever it stands, a reference to one (`${oc.env:WANDB_API_KEY}`, which is resolved before it
is printed), and a URL with a password. The sentence says where it is, never what it is. Placeholders such as `EMPTY`
pass. `verl_ext.run.keys.faults(config)` is this check by itself. Started by verl's own entry point, Hydra has
written the refused configuration to its output folder by then: delete that folder. A dry run does not show it.

Set the variable in the shell of each node, or send it with a job: `verl-ext submit ... --env WANDB_API_KEY`
([submission](submission.md)) shows the name alone. `wandb login` on the node works too. A proxy with a password goes
into `HTTPS_PROXY` instead of `trainer.wandb_proxy`.
"""


def render() -> str:
    """The page."""
    parts = [INTRODUCTION]
    for about, metrics in itertools.groupby(everything(), key=lambda metric: metric.about):
        rows = [
            f"| `{m.name}` | {m.unit} | {m.meaning.replace('|', chr(92) + '|')} | {PANELS[m.panel]} |" for m in metrics
        ]
        parts.append(
            "\n".join([f"## {about}", "", "| name | unit | meaning | panel |", "|---|---|---|---|", *rows, ""])
        )
    return "\n".join([*parts, CLOSING])
