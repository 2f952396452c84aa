"""`verl_ext.gpu_check.child` with a table that has the specimens: ``with_specimens.py NAME DEVICE ANSWER``."""

import sys
from pathlib import Path

import specimens

from verl_ext.gpu_check import child
from verl_ext.gpu_check.table import CHECKS, Check

for name in ("fine", "wrong", "lacking", "raising", "killed", "leaving", "hanging"):
    CHECKS[name] = Check(name, f"{specimens.__name__}:{name}", "", 60)

child.main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
