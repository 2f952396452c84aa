"""Clip parameters proposed from a dumped batch: ``verl-ext view clip``."""
