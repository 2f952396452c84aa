"""Policy losses: one file a method, pure functions of tensors and floats, no verl import."""

from verl_ext.losses.dcpo import dcpo_loss
from verl_ext.losses.espo import espo_loss
from verl_ext.losses.grpo_s import grpo_s_loss
from verl_ext.losses.high_entropy import high_entropy_loss
from verl_ext.losses.sspo import sspo_loss
from verl_ext.losses.steer import steer_loss
from verl_ext.losses.tepo import tepo_loss

__all__ = ["dcpo_loss", "espo_loss", "grpo_s_loss", "high_entropy_loss", "sspo_loss", "steer_loss", "tepo_loss"]
