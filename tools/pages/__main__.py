"""`python -m tools.pages [--check]`."""

from __future__ import annotations

import sys

from tools.pages.derived import run

if sys.argv[1:] not in ([], ["--check"]):
    sys.exit("usage: python -m tools.pages [--check]")
sys.exit(run(check="--check" in sys.argv))
