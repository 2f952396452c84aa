"""Evaluation of a model on benchmarks: generations kept as they came, scores, and metrics with intervals."""
