"""`verl-ext report`: what runs have logged, as one page; and the catalogue of the metrics that this package emits."""
