"""Hydra groups of verl_ext; installed as the package ``verl_ext.configs``.

The file exists because Hydra reads ``pkg://`` only from packages that have an ``__init__.py``.
"""
