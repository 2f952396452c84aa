"""The command `verl-ext entropy-check`: the engine's log-probs and entropies against those of transformers."""
