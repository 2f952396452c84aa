"""Training sets and benchmarks: sources, templates, checks, manifests, and the contamination report.

`prepare.prepare` writes one data set under one template; a file of `sets` says what is known of each.
"""
