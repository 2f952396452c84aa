"""`verl-ext doctor cluster`: is the cluster what the configuration needs? Asked before any model is loaded."""

from verl_ext.cluster.preflight.compare import compare
from verl_ext.cluster.preflight.finding import Finding
from verl_ext.cluster.preflight.found import Found, Node, Seen
from verl_ext.cluster.preflight.wanted import Wanted, wanted

__all__ = ["Finding", "Found", "Node", "Seen", "Wanted", "compare", "wanted"]
