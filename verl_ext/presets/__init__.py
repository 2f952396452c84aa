"""The chosen preset (``algo=espo``) compared with what would run.

Hydra merges whatever a command says after the preset, so that `+algo=erpo` beside `algorithm.adv_estimator=grpo` would
be plain GRPO. `choice` finds the preset and what it says alone, `identity` what makes it the method that it is.
"""

from verl_ext.presets.choice import Preset, find, of_this_process

__all__ = ["Preset", "find", "of_this_process"]
