"""Checkpoints that can be trusted: what verl leaves out, a list of every file, and what is checked before a resume."""
