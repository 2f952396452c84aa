"""Prints docs/compatibility.md."""

import sys

from verl_ext.bridge.compatibility.page import render

sys.stdout.write(render())
