"""Clip parameters proposed from a dumped batch: ``verl-ext calibrate``."""
