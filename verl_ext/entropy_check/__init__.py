"""The command `verl-ext doctor entropies`: the engine's log-probs and entropies against those of transformers."""
