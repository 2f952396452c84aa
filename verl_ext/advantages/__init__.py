"""Advantage estimators: one file a method, pure functions of tensors and floats, no verl import."""

from verl_ext.advantages.entropy_bonus import entropy_bonus_advantage
from verl_ext.advantages.erpo import erpo_advantage
from verl_ext.advantages.espo import espo_advantage
from verl_ext.advantages.gtpo import grpo_s_advantage, gtpo_advantage

__all__ = ["entropy_bonus_advantage", "erpo_advantage", "espo_advantage", "grpo_s_advantage", "gtpo_advantage"]
