"""Entropies from the rollout engine: vLLM computes them where it samples, and they travel to the trainer."""
