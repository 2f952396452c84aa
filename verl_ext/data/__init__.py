"""Training sets and benchmarks: sources, templates, checks, manifests, and the contamination report.

`prepare.prepare` writes one data set under one template; `registry.DATASETS` says what is known of each.
"""
