"""A file for each data set that has a name: `SET`, a `verl_ext.data.dataset.Dataset`. `registry` finds them.

A file here is all that a new set needs: ``data list``, the configuration ``data=<name>`` and the table of docs/data.md
(`make docs`) are made of it.
"""
